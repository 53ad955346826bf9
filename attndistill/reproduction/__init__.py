"""From a figure back to what made it: check it (`verify`), make it again (`rebuild`), follow it back (`trace`)."""
