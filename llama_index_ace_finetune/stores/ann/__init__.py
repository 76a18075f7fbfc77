"""In-process nearest-neighbour indexes: flat and IVF."""
