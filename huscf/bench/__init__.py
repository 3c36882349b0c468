"""Many runs side by side: a grid of methods, scenarios, keys and seeds, run, resumed and tabled."""

from .grid import Cell, Grid
from .running import run_cells

__all__ = ["Cell", "Grid", "run_cells"]
