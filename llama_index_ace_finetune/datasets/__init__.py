"""What a user brings, and how it is divided: readers, clean-up, split, audit, statistics. No torch here."""
