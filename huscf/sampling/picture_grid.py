"""Samples side by side, a row for every class, its name before it."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..errors import make_printable

if TYPE_CHECKING:
    from PIL import Image, ImageFont

#: Pixels between samples, and around them.
GAP = 2
#: Longer names are cut.
MAX_SIGNS = 24
#: A grey that can be read on white and on black: whoever shows a grid chooses what is behind it.
INK = (136, 136, 136, 255)
#: Between pictures, so that white ones have an edge on white.
EDGE = (136, 136, 136, 80)


def draw_picture_grid(rows: Sequence[Tensor], names: Sequence[str], min_pixels: int = 32) -> bytes:
    """Return a PNG whose background is transparent.

    Args:
        rows: One per class, (N, C, H, W) uint8; C is 1 or 3.
        names: One per row.
        min_pixels: Small samples are enlarged to at least so many pixels a side.
    """
    from PIL import Image, ImageDraw

    size = rows[0].shape[-1]
    scale = max(1, -(-min_pixels // size))
    step = size * scale + GAP
    font = _load_font(max(11, min(20, step // 3)))
    shown = [_shorten(name) for name in names]
    margin = 2 * GAP + max(round(font.getlength(name)) for name in shown) + 6
    width = margin + step * max(map(len, rows))
    grid = Image.new("RGBA", (width, GAP + step * len(rows)), (0, 0, 0, 0))
    draw = ImageDraw.Draw(grid)
    for line, (name, pictures) in enumerate(zip(shown, rows, strict=True)):
        top = GAP + line * step
        draw.text((margin - 8, top + step // 2 - 1), name, INK, font, anchor="rm")
        for column, picture in enumerate(pictures):
            left = margin + column * step
            draw.rectangle((left - GAP, top - GAP, left + step - 1, top + step - 1), EDGE)
            grid.paste(_enlarge(picture, scale), (left, top))
    content = io.BytesIO()
    grid.save(content, format="png")
    return content.getvalue()


def _enlarge(picture: Tensor, scale: int) -> "Image.Image":
    from PIL import Image

    pixels = picture.permute(1, 2, 0).numpy()
    pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
    image = Image.fromarray(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _shorten(name: str) -> str:
    plain = make_printable(name.replace("\n", " "))
    return plain if len(plain) <= MAX_SIGNS else f"{plain[: MAX_SIGNS - 1]}…"


@cache
def _load_font(size: int) -> "ImageFont.FreeTypeFont":
    """Return the font that matplotlib brings along, which knows more than Latin letters."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
