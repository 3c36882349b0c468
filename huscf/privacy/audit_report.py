"""How an audit is shown: a table for the terminal, a picture, and a file for programs."""

import io
import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from ..models import to_uint8
from .findings import Audit

#: What figures are called, and to how many digits they are shown.
FIGURES = {
    "mse": ("MSE", 4),
    "ssim": ("SSIM", 3),
    "psnr_db": ("PSNR, dB", 1),
    "accuracy": ("labels found", 3),
    "auroc": ("AUROC", 3),
    "tpr_at_1_percent": ("TPR at 1 % FPR", 3),
    "tpr_at_0.1_percent": ("TPR at 0.1 %", 3),
}

#: Reconstructions in a row of the picture.
SHOWN = 12


def make_table(audit: Audit) -> Table:
    """Return a table of the findings, a row for each of their figures."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("attack", "by", "where", "knowing", "figure"):
        table.add_column(name, no_wrap=True)
    for name in ("this run", "untrained", "chance"):
        table.add_column(name, justify="right")
    for finding in audit.findings:
        owner: tuple[str, ...] = (finding.attack, finding.adversary, finding.place, finding.knowing)
        for name in finding.trained:
            title, digits = FIGURES[name]
            each = (finding.trained, finding.untrained, finding.chance)
            values = [f"{figures[name]:.{digits}f}" for figures in each]
            if error := finding.chance.get(f"{name}_standard_error"):
                values[-1] += f" +- {error:.{digits}f}"
            table.add_row(*owner, title, *values)
            owner = ("", "", "", "")
    return table


def write_json(audit: Audit, settings: Mapping[str, Any]) -> str:
    """Return audit.json: settings, findings, what did not apply, and counts."""
    return json.dumps({**settings, **audit.as_values()}, indent=1) + "\n"


def draw_pictures(audit: Audit) -> bytes:
    """Return a PNG: originals beside what was made of them, a row each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(audit.pictures.items())
    figure = Figure(figsize=(SHOWN * 0.8, 1.15 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(len(rows), SHOWN, squeeze=False)
    for axes, (title, samples) in zip(all_axes, rows, strict=True):
        axes[0].set_title(title, loc="left", fontsize=8)
        for axis in axes:
            axis.set_axis_off()
        for axis, picture in zip(axes, _as_pictures(samples[:SHOWN]), strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    content = io.BytesIO()
    figure.savefig(content, dpi=120, metadata={"Software": None})
    return content.getvalue()


def _as_pictures(samples: Tensor) -> list[Any]:
    pixels = to_uint8(samples).permute(0, 2, 3, 1).numpy()
    return [picture[:, :, 0] if picture.shape[2] == 1 else picture for picture in pixels]
