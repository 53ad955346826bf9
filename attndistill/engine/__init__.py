"""Many rows and seeds over many processors and machines, by Parsl. Nothing here is imported without `--on`."""
