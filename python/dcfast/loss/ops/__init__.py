"""The losses as torch operators, with their gradients: on one process, and over ranks."""
