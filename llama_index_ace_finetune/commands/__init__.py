"""What the command line does: the only room that prints."""
