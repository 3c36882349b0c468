"""The ways to search a plan, and the bounds that say how good it is."""
