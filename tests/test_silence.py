"""Commands say what they have to say, and nothing that a dependency says of itself."""

import subprocess
import sys

import pytest

TINY = [
    *("fit", "--config", "quickstart", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--report.enabled=false"),
    *("--model.method.generator.width=4", "--model.method.discriminator.width=4"),
    *("--data.batch_size=4", "--data.clients_per_domain=1", "--evaluation.every_n_rounds=-1"),
]
COMMANDS = [
    ["--help"],
    ["plan", "--config", "paper/devices", "--strategy", "uniform"],
    ["check-data", "--config", "quickstart", "--output", "sheet.png"],
    ["compare", "runs/quickstart-1"],
    ["generate", "--ckpt_path", "last", "--num_samples", "10", "--output", "drawn"],
    ["export", "--ckpt_path", "last", "--cluster", "0", "--output", "generator.pt"],
]
FOREIGN = ("Tip", "deprecat", "Warning", "litlogger", "Params", "GPU", "wandb")


def run(code, folder, *options):
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=folder
    )


def test_importing_says_nothing(tmp_path):
    packages = ("training", "callbacks", "datamodules", "sampling", "reporting", "planning", "cli")
    code = f"import huscf, {', '.join(f'huscf.{name}' for name in packages)}"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Standard error by command, each marked with its number, in one process."""
    code = (
        "import sys\nfrom huscf.__main__ import main\n"
        f"for arguments in {[TINY, *COMMANDS]!r}:\n"
        "    print('=====', file=sys.stderr)\n"
        "    print('=====')\n"
        "    assert main(arguments) == 0, arguments\n"
    )
    done = run(code, tmp_path_factory.mktemp("silence"))
    assert done.returncode == 0, done.stderr
    parts = (text.split("=====\n")[1:] for text in (done.stdout, done.stderr))
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize("place", range(len(COMMANDS)), ids=[c[0] for c in COMMANDS])
def test_a_command_says_nothing_but_its_answer(said, place):
    answer, errors = said[place + 1]
    assert errors == ""
    assert answer
    assert [word for word in FOREIGN if word in answer and COMMANDS[place][0] != "--help"] == []


def test_training_says_its_seed_alone(said):
    answer, errors = said[0]
    assert errors == "Seed set to 0\n"
    assert "run folder: runs/quickstart-1" in answer
    assert [word for word in FOREIGN if word in answer] == []
