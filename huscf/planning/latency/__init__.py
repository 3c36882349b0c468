"""The seconds of one step of a plan. The formula stands in `corrected.py`."""
