"""The command init: a first configuration for a folder of one's own."""
