"""The training modes linear, queries and full, and their schedule."""
