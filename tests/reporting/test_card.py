"""README.md beside samples and models: true, complete, and without private names."""

import json
import re
import shutil

import pytest
import torch
import yaml

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.reporting.card_facts import check_licence
from huscf.reporting.markdown import escape_markdown, make_markdown_table


@pytest.fixture
def folder(run, tmp_path):
    """A copy of a run's folder that may be changed, with a test's figures."""
    folder = shutil.copytree(run, tmp_path / "private" / "my run")
    spread = {"mean": 0.5, "std": 0.25, "n": 2}
    figures = {"label_accuracy": 0.875, "nearest_real_ratio": 1.125}
    content = {"together": figures, "over_clients": {"label_accuracy": spread}}
    scores = {"round": 2, "evaluation_seeds": [0], "domains": {"digits": content}}
    (folder / "metrics.json").write_text(json.dumps(scores))
    return folder


def generate(checkpoint, output, *options):
    arguments = [f"--ckpt_path={checkpoint}", f"--output={output}", "--num_samples=40", *options]
    return main(["generate", *arguments])


def read_card(output):
    """The head as values, and the sections by heading."""
    _, head, body = (output / "README.md").read_text().split("---\n", 2)
    title, *sections = re.split(r"^## ", body, flags=re.MULTILINE)
    named = (section.partition("\n\n") for section in sections)
    return yaml.safe_load(head), {"": title, **{heading: text for heading, _, text in named}}


def test_a_card_says_what_hubs_and_people_ask(folder, tmp_path):
    assert generate(folder, tmp_path / "out", "--license=CC-BY-4.0") == 0
    head, sections = read_card(tmp_path / "out")
    assert head == {
        "license": "cc-by-4.0",
        "tags": ["synthetic", "huscf"],
        "pretty_name": "Synthetic pictures: digits, negatives",
        "task_categories": ["image-classification"],
        "size_categories": ["n<1K"],
    }
    assert "40 synthetic grey pictures of 8 x 8 pixels" in sections[""]
    assert "4 of the 4 clients of run my run" in sections[""]
    assert "HuscfGan for 2 rounds" in sections[""]
    assert "cross: activations, blocks, gradients, moved blocks, statistics." in sections[""]
    assert "| digits | 2 | 24 | 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in sections["Trained on"]
    assert "| label accuracy | 0.875 (0.500 ± 0.250) |" in sections["How good it is"]
    assert "| nearest real ratio | 1.125 |" in sections["Memorisation check"]
    assert sections["Audit"].strip() == "None was made."
    assert sections["Licence"].strip() == "cc-by-4.0"
    assert {"Files", "Use", "Intended use", "Limits"} <= sections.keys()
    made = sections["How it was made"]
    assert "| run | my run |" in made and "| seed | 0 |" in made
    assert f"| training, torch | {torch.__version__} |" in made


def test_files_and_code_of_a_card_are_there_and_run(folder, tmp_path, monkeypatch):
    assert generate(folder, tmp_path / "out") == 0
    _, sections = read_card(tmp_path / "out")
    for name in ("manifest.csv", "samples.npz"):
        assert f"| {name} |" in sections["Files"] and (tmp_path / "out" / name).is_file()
    (code,) = re.findall(r"```python\n(.*?)```", sections["Use"], re.DOTALL)
    monkeypatch.chdir(tmp_path / "out")
    found = {}
    exec(code, found)
    assert found["samples"].shape == (40, 1, 8, 8) and set(found["domains"]) == {
        "digits",
        "negatives",
    }


def test_a_card_counts_only_those_who_drew(folder, tmp_path):
    assert generate(folder, tmp_path / "out", "--client", "1", "2", "3") == 0
    _, sections = read_card(tmp_path / "out")
    table = sections["Trained on"]
    assert "| digits | 1 | 12 |" in table and "| negatives | 2 | 24 |" in table


def test_a_card_of_one_domain_names_no_other(folder, tmp_path):
    assert generate(folder, tmp_path / "out", "--client", "2", "3") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "negatives" in text and "digits" not in text
    assert "Not measured" in read_card(tmp_path / "out")[1]["How good it is"]


def test_no_path_host_or_command_is_on_a_card(folder, tmp_path):
    entry = {"command": "huscf fit --data.root /home/secret/patients", "torch": "2.0"}
    (folder / "provenance.json").write_text(json.dumps([entry]))
    assert generate(folder, tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| training, torch | 2.0 |" in text
    assert "secret" not in text and "/home" not in text and str(tmp_path) not in text


def test_the_findings_of_an_audit_are_listed(folder, tmp_path):
    finding = {
        "attack": "inversion | *by* optimisation",
        "adversary": "server",
        "place": "head cut 1 of client 0",
        "trained": {"mse": 0.01234, "ssim": 0.9},
        "untrained": {"mse": 0.5},
        "chance": {},
    }
    (folder / "audit.json").write_text(json.dumps({"attacks": [finding], "counts": {}}))
    assert generate(folder, tmp_path / "out") == 0
    _, sections = read_card(tmp_path / "out")
    assert (
        r"| inversion \| \*by\* optimisation | server | head cut 1 of client 0 | "
        "mse 0.0123, ssim 0.9 | mse 0.5 | - |" in sections["Audit"]
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("audit.json", "[" * 100_000),
        ("audit.json", '{"attacks": {"a": 1}}'),
        ("audit.json", " " * (2**20 + 1)),
        ("metrics.json", '{"domains": {"digits": {"together": {"label_accuracy": "x"}}}}'),
        ("clients.csv", None),
    ],
)
def test_samples_are_written_though_the_runs_files_are_damaged(
    name, content, folder, tmp_path, capsys
):
    (folder / name).unlink(missing_ok=True)
    if content is None:
        (folder / name).symlink_to("/etc/passwd")
    else:
        (folder / name).write_text(content)
    assert generate(folder, tmp_path / "out") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("README.md is without the run's figures: ")
    _, sections = read_card(tmp_path / "out")
    assert "Not measured" in sections["How good it is"]


def test_a_checkpoint_without_its_folder_has_a_card_too(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "alone.ckpt")
    assert generate(tmp_path / "alone.ckpt", tmp_path / "out") == 0
    _, sections = read_card(tmp_path / "out")
    assert "4 of the 4 clients of a run." in sections[""]
    assert "| digits | 2 | - |" in sections["Trained on"]


def test_a_foreign_checkpoint_whose_configuration_is_odd_has_a_card_too(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["huscf_config"]["data"] = {}
    content["huscf_data"]["domain_class_names"] = {"digits": ["|" * 10**6], "other": []}
    torch.save(content, tmp_path / "odd.ckpt")
    assert generate(tmp_path / "odd.ckpt", tmp_path / "out") == 0
    _, sections = read_card(tmp_path / "out")
    assert "Data:" not in sections["Trained on"] and len(sections["Trained on"]) < 11_000
    assert "| negatives | 2 | - | 0, 1, 2," in sections["Trained on"]


def test_figures_of_another_round_say_so(folder, tmp_path):
    scores = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**scores, "round": 1}))
    assert generate(folder, tmp_path / "out") == 0
    _, sections = read_card(tmp_path / "out")
    assert "is of round 2, so the figures are of another state." in sections["How good it is"]


@pytest.mark.parametrize("name", ["", "my own licence", "mit\nx: y", "x" * 50, "../mit"])
def test_a_licence_that_is_no_name_is_one_line(name, checkpoint, tmp_path, capsys):
    with pytest.raises(HuscfError, match="give a name such as mit"):
        check_licence(name)
    assert generate(checkpoint, tmp_path / "out", f"--license={name}") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_names_stay_in_their_cell():
    table = make_markdown_table(("a|b", "c"), [["x\n| y", "<img src=z>\x1b[2J"]])
    assert table.splitlines() == [
        r"| a\|b | c |",
        "| --- | --- |",
        r"| x \| y | \<img src=z\>\\x1b\[2J |",
    ]
    assert escape_markdown("plain name, 3.5 %") == "plain name, 3.5 %"
