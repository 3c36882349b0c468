"""provenance.json: what a run was made with, and by which command."""

import getpass
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.provenance import describe_process, find_commit, note_start, read_provenance
from huscf.reporting import RunRecord, write_page
from tests.reporting.conftest import fit


def test_a_run_says_what_made_it_and_names_no_host_or_user(run):
    text = (run / "provenance.json").read_text()
    (entry,) = json.loads(text)
    assert entry["from_round"] == "0"
    assert entry["huscf"] == version("huscf")
    assert entry["torch"] == torch.__version__
    assert entry["lightning"] == version("lightning")
    assert entry["python"] == platform.python_version()
    assert entry["cores"] == str(len(os.sched_getaffinity(0)))
    assert entry["date"].endswith("+00:00")
    for private in (platform.node(), getpass.getuser()):
        described = {**entry, "command": "", "cpu": ""}
        assert private not in described.values()


def test_a_resumed_run_adds_an_entry_and_the_page_shows_both(run, tmp_path):
    folder = tmp_path / "runs" / run.name
    shutil.copytree(run, folder)
    last = folder / "checkpoints" / "last.ckpt"
    assert fit(tmp_path / "runs", "--trainer.max_epochs=3", f"--ckpt_path={last}") == folder
    first, second = RunRecord.read(folder).provenance
    assert (first["from_round"], second["from_round"]) == ("0", "2")
    html = (folder / "report.html").read_text()
    section = html.partition("<h2>Provenance</h2>")[2].partition("</section>")[0]
    assert "<th>start 1</th><th>start 2</th>" in section
    assert "<td>from round</td><td>0</td><td>2</td>" in section
    assert f"<td>torch</td><td>{torch.__version__}</td><td>{torch.__version__}</td>" in section


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/usr/bin/huscf", "huscf fit --config 'my runs.yaml'"),
        ("/site-packages/huscf/__main__.py", "huscf fit --config 'my runs.yaml'"),
        ("/home/me/train.py", "train.py fit --config 'my runs.yaml'"),
    ],
)
def test_the_command_can_be_pasted(program, shown, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "fit", "--config", "my runs.yaml"])
    assert describe_process()["command"] == shown


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_checkout_and_says_if_there_are_changes(tmp_path):
    package = tmp_path / "huscf"
    package.mkdir()
    file = package / "code.py"
    file.write_text("1")
    assert find_commit(package) == ""
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "one"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    subprocess.run(["git", *identity, "tag", "-am", "x", "v1"], cwd=tmp_path, check=True)
    assert len(commit) == 40 and find_commit(package) == commit
    file.write_text("2")
    assert find_commit(package) == f"{commit}-dirty"


@pytest.mark.parametrize("content", ["{", "{}", "[3]", "[" * 100_000, "[]" + " " * 2**20])
def test_a_damaged_file_is_named_and_stays(content, run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "provenance.json").write_text(content)
    assert main(["report", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder / "provenance.json") in line
    with pytest.raises(HuscfError):
        note_start(folder, 1)
    assert (folder / "provenance.json").read_text() == content


def test_values_of_others_steer_no_terminal_and_are_no_html(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    entry = {"command": "\x1b[2J<b>" + "x" * 5000, "huscf": ["a", {"b": 1}], "other": "no"}
    (folder / "provenance.json").write_text(json.dumps([entry]))
    (read,) = read_provenance(folder)
    assert read["command"].startswith("\\x1b[2J<b>xxx") and len(read["command"]) == 2000
    assert read["huscf"] == '["a", {"b": 1}]' and "other" not in read
    assert "\\x1b[2J&lt;b&gt;" in write_page(RunRecord.read(folder)).read_text()


def test_a_run_without_the_file_still_has_a_page(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "provenance.json").unlink()
    assert "<h2>Provenance</h2>" not in write_page(RunRecord.read(folder)).read_text()
