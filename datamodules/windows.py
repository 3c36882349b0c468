"""Which values of a deep picture are shown as black and white."""

import numpy as np

Window = tuple[float, float]

#: Pixels of one file, decoded; larger ones are refused before that, as Pillow does.
MOST_PIXELS = 1 << 27


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """Return float32 in [0, 255]: the window's ends are black and white, what is beyond as well."""
    low, high = window
    scale = 255 / (high - low) if high > low else 0.0
    return ((values.astype(np.float64) - low) * scale).clip(0, 255).astype(np.float32)
