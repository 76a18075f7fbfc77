"""Models written out for runtimes that need no torch, and how they are run."""
