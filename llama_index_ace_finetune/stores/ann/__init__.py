"""Nearest-neighbour indexes in the process."""
