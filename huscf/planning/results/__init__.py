"""What a search returns, as values, tables and pictures."""
