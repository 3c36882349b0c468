"""huscf completion: bash offers commands, keys of each, files and names of configurations."""

import subprocess

import pytest

from huscf.__main__ import COMMANDS, _show_help, main
from huscf.completion import find_options, make_script


def offer(script, *words, cwd=None):
    """What bash offers for the last of some words."""
    listed = " ".join(f"'{word}'" for word in words)
    lines = f"{script}\nCOMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _huscf\n"
    lines += 'printf "%s\\n" "${COMPREPLY[@]}"'
    run = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, cwd=cwd)
    assert run.stderr == ""
    return run.stdout.split()


@pytest.fixture(scope="module")
def script():
    commands = ("fit", "plan", "init", "compare")
    options = {command: find_options(_show_help(command)) for command in commands}
    return make_script(options, ["quickstart", "methods/fedgan"])


def test_it_offers_commands_and_their_options(script):
    assert offer(script, "huscf", "f") == ["fit"]
    assert offer(script, "huscf", "fit", "--trainer.max_e") == ["--trainer.max_epochs"]
    assert "--federation.every_n_epochs" in offer(script, "huscf", "fit", "--federation.")
    assert offer(script, "huscf", "plan", "--strat") == ["--strategy"]
    assert offer(script, "huscf", "plan", "--trainer") == []
    assert offer(script, "huscf", "init", "fo") == ["folder"]
    assert offer(script, "huscf", "init", "--") == ["--help", "--data", "--output"]


def test_it_offers_configurations_and_files(script, tmp_path):
    (tmp_path / "quiet.yaml").write_text("")
    for option in ("--config", "-c"):
        found = offer(script, "huscf", "fit", option, "qui", cwd=tmp_path)
        assert found == ["quickstart", "quiet.yaml"]
    for words in (["fit", "--ckpt_path"], ["init", "folder", "--data"], ["compare"]):
        assert offer(script, "huscf", *words, "qui", cwd=tmp_path) == ["quiet.yaml"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("fit", "plan", "init")])
def test_every_command_has_options_to_offer(command):
    needed = {"completion": "zsh", "compare": "--output", "report": "--help", "join": "--address"}
    needed |= {"generate": "--num_samples", "export": "--client", "provision": "--sites"}
    needed |= {"audit": "--data_root"}
    assert needed.get(command, "--config") in find_options(_show_help(command)), command


def test_the_command_prints_a_script_that_bash_takes(capsys, monkeypatch):
    monkeypatch.setattr("huscf.__main__._show_help", lambda command: f"  --{command}-option X  y")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert offer(script, "huscf", "check-data", "--") == ["--check-data-option"]
    assert "methods/fedgan" in offer(script, "huscf", "fit", "--config", "")
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.endswith(script)
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
