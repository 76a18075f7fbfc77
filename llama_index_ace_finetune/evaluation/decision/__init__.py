"""What the figures decide: the system that serves, and the verdict."""
