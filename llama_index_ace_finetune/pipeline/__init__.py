"""The stages of a run, callable from Python."""
