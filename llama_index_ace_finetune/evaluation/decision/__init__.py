"""System selection on dev, and the verdict on test."""
