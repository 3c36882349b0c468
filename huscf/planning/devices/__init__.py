"""Devices, server and who takes part in a run; how they drift, and what this machine can do."""
