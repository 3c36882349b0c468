"""The pages of docs/extending: what they say is to be written is; every example trains a round."""

import ast
import csv
import importlib
import inspect
import re

import pytest

from huscf.__main__ import main
from huscf.split import CutPlan
from tests.conftest import REPOSITORY

PAGES = sorted((REPOSITORY / "docs" / "extending").glob("*.md"))
GUIDE = "".join(page.read_text() for page in PAGES)
FILES = {
    name: text
    for text, name in re.findall(
        r"```(?:python|yaml)\n(# (my_\w+\.(?:py|yaml))\n.*?)```", GUIDE, re.DOTALL
    )
    if name != "my_shapes.py"  # which shows shapes only
}
SIGNATURES = re.findall(r"```python\n# signatures\n(.*?)```", GUIDE, re.DOTALL)
OVERLAYS = [name for name in FILES if name.endswith(".yaml")]


def fit(tmp_path, monkeypatch, overlays, options=()):
    """Train a round of two steps; return its row of metrics.csv."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    code = main(
        [
            "fit",
            *("--config", str(REPOSITORY / "configs" / "quickstart.yaml")),
            *(f"--config={tmp_path / overlay}" for overlay in overlays),
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={tmp_path / 'runs'}",
            "--evaluation.every_n_rounds=-1",
            "--data.init_args.batch_size=8",
            "--data.init_args.clients_per_domain=2",
            "--report.enabled=false",
            *options,
        ]
    )
    assert code == 0
    (path,) = tmp_path.glob("runs/*/metrics.csv")
    (row,) = csv.DictReader(path.read_text().splitlines())
    return row


def test_every_python_file_has_an_overlay():
    assert len(OVERLAYS) == 7
    assert sorted(FILES) == sorted(OVERLAYS + [f"{name[:-5]}.py" for name in OVERLAYS])


def test_the_method_trains_alike_by_both_engines(tmp_path, monkeypatch):
    losses = []
    for engine in ("stacked", "serial"):
        (tmp_path / engine).mkdir()
        options = [f"--model.engine={engine}"]
        row = fit(tmp_path / engine, monkeypatch, ["my_method.yaml"], options)
        losses.append(float(row["train/encoder+decoder_loss"]))
        assert 0 < losses[-1] < 4  # squared differences of values in [-1, 1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_network_trains(tmp_path, monkeypatch):
    row = fit(tmp_path, monkeypatch, ["my_network.yaml"])
    assert float(row["train/generator_loss"]) > 0
    assert float(row["traffic/mbytes"]) > 0


def test_rules_wire_loss_plan_and_callback_train_together(tmp_path, monkeypatch):
    parts = ("rules", "wire", "loss", "plan", "callback")
    row = fit(tmp_path, monkeypatch, [f"my_{part}.yaml" for part in parts])
    assert float(row["federation/num_clusters"]) == 2
    assert float(row["mine/uplink_mbytes"]) > 0
    # Of targets of 0.9 and 0.1 no logit gives less than their entropy, twice.
    assert float(row["train/discriminator_loss"]) > 2 * 0.325
    (path,) = tmp_path.glob("runs/*/plan.yaml")
    assert [c.cuts.as_list() for c in CutPlan.load(path).clients] == [[2, 1, 1, 1]] * 4


@pytest.mark.parametrize("block", SIGNATURES, ids=lambda text: text.split("import ")[1].split()[0])
def test_the_methods_that_a_page_shows_are_those_of_the_base_class(block):
    tree = ast.parse(block)
    (line,) = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    base = getattr(importlib.import_module(line.module), line.names[0].name)
    (shown,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert ast.unparse(shown.bases[0]) == base.__name__
    methods = {n.name: n for n in shown.body if isinstance(n, ast.FunctionDef)}
    assert set(base.__abstractmethods__ if hasattr(base, "__abstractmethods__") else ()) <= set(
        methods
    )
    for name, method in methods.items():
        wanted = list(inspect.signature(getattr(base, name)).parameters)
        assert [argument.arg for argument in method.args.args] == wanted, name
    for node in shown.body:
        if isinstance(node, ast.Assign):
            assert getattr(base, node.targets[0].id) == ast.literal_eval(node.value)


def test_every_extension_point_of_the_readme_has_a_page():
    readme = (REPOSITORY / "README.md").read_text()
    named = set(re.findall(r"\]\(docs/extending/(\w+)\.md\)", readme))
    assert named == {page.stem for page in PAGES if page.stem != "README"}
