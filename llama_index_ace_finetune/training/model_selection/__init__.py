"""Dev evaluation, weight interpolation, and the forgetting constraint."""
