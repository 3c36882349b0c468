"""The tutorials run as they are printed, made small; the notebook runs top to bottom."""

import csv
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from huscf.__main__ import main
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PICTURES = (DOCS / "tutorials" / "my_pictures.md").read_text()
NOTEBOOK = DOCS / "tutorials" / "first_run.ipynb"


def test_the_tutorial_of_own_pictures_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUSCF_CACHE", str(tmp_path / "cache"))
    (script,) = re.findall(r"```python\n# make_pictures.py\n(.*?)```", PICTURES, re.DOTALL)
    (tmp_path / "make_pictures.py").write_text(script)
    commands = [shlex.split(line) for line in re.findall(r"```bash\n(.*?)\n```", PICTURES)]
    assert commands.pop(0) == ["python", "make_pictures.py"]
    subprocess.run([sys.executable, "make_pictures.py"], check=True)
    assert [command[1] for command in commands] == ["init", "check-data", "fit", "generate"]
    short = ["--trainer.max_epochs=2", "--data.steps_per_epoch=2", "--trainer.accelerator=cpu"]
    short += ["--evaluation.every_n_rounds=-1", "--report.enabled=false"]
    short += ["--model.method.generator.width=4", "--model.method.discriminator.width=4"]
    for command in commands:
        assert main([*command[1:], *(short if command[1] == "fit" else [])]) == 0
    given = yaml.safe_load((tmp_path / "shapes.yaml").read_text())["data"]["init_args"]
    assert given["sources"] == {"day": "day", "night": "night"}
    assert given["clients_per_domain"] == 4
    assert len(list((tmp_path / "drawn").glob("*/*/*.png"))) == 20


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_notebook_runs_top_to_bottom(tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    short = "max_epochs 5 --data.clients_per_domain 2 --data.steps_per_epoch 3"
    for cell in notebook.cells:
        cell.source = cell.source.replace("max_epochs 20", short)  # a round instead of four
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    table = (tmp_path / "runs" / "first-1" / "metrics.csv").read_text()
    (row,) = csv.DictReader(table.splitlines())
    assert float(row["federation/ari"]) == 1.0
    assert len(list((tmp_path / "drawn").glob("*/*/*.png"))) == 40
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "data" in out]
    assert sum("image/png" in out["data"] for out in pictures) == 2


def test_every_page_stands_in_the_menu():
    text = (REPOSITORY / "mkdocs.yml").read_text()
    menu = set(re.findall(r"([\w/]+\.md)", text.partition("nav:")[2]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages <= menu
    assert menu - pages == {
        *("index.md", "contributing.md", "changelog.md", "tutorials/first_run.md")
    }
