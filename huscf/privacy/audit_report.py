"""How an audit is shown: a table for the terminal, a picture, and a file for programs."""

import io
import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
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


def make_tables(audit: Audit) -> list[Table]:
    """Return a table for every place that is attacked, a row for each figure."""
    tables: dict[str, Table] = {}
    for finding in audit.findings:
        owner = f"{finding.adversary}: {finding.place}"
        table = tables.setdefault(owner, _make_table(owner))
        names: tuple[str, ...] = (finding.attack, finding.knowing)
        for name in finding.trained:
            title, digits = FIGURES[name]
            each = (finding.trained, finding.untrained, finding.chance)
            values = [f"{figures[name]:.{digits}f}" for figures in each]
            if error := finding.chance.get(f"{name}_standard_error"):
                values[-1] += f" +- {error:.{digits}f}"
            table.add_row(*map(Text, names), title, *values)
            names = ("", "")
    return list(tables.values())


def _make_table(owner: str) -> Table:
    title = Text(owner, "bold")
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name, width in (("attack", 28), ("knowing", 20), ("figure", 14)):
        table.add_column(name, width=width)
    for name, width in (("this run", 9), ("untrained", 9), ("chance", 16)):
        table.add_column(name, width=width, justify="right")
    return table


def write_json(audit: Audit, settings: Mapping[str, Any]) -> str:
    """Return audit.json: settings, findings, what did not apply, and counts."""
    return json.dumps({**settings, **audit.as_values()}, indent=1) + "\n"


def draw_pictures(audit: Audit) -> bytes:
    """Return a PNG: originals beside what was made of them, a row each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = list(audit.pictures.items())
    height = 1.1 * len(rows)
    figure = Figure(figsize=(SHOWN * 0.8, height))
    figure.subplots_adjust(0.01, 0.1 / height, 0.99, 1 - 0.35 / height, 0.06, 0.4)
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
