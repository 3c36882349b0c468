"""Configurations that come with huscf; `huscf fit --config quickstart` finds them by name."""
