"""What is done with a finished model: handed on to other programs, or asked about photos."""
