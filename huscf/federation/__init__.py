"""The federation package."""
