"""The modules package."""
