"""What the parser refuses: one line with the key, what it must be, and what was meant."""

from pathlib import Path

import pytest

from huscf.parser_messages import shorten
from tests.test_security import MINI, refuse

FOLDER = "data:\n  class_path: huscf.datamodules.FolderDataModule\n  init_args: {root: x, %s}\n"


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mini.yaml").write_text(MINI)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--data", "huscf.datamodules.DigitDataModule"],
            "data: there is no huscf.datamodules.DigitDataModule; did you mean "
            "huscf.datamodules.DigitsDataModule?; there are AudioFolderDataModule, Digits",
        ),
        (
            ["--model.method.loss", "HingeLos"],
            "model.method.init_args.loss: there is no HingeLos; did you mean "
            "huscf.models.HingeLoss?; there are HingeLoss, LeastSquaresLoss, NonSaturatingLoss",
        ),
        (
            ["--model.method.generator", "huscf.models.ConditionalGenerater"],
            "did you mean huscf.models.ConditionalGenerator?",
        ),
        (
            ["--federation.rule", "huscf.federation.KMeansCluster"],
            "did you mean huscf.federation.KMeansClusters?",
        ),
        (["--model.plan", "nowhere.Plan"], "model.plan: there is no nowhere.Plan"),
        (
            ["--federation.weighting", "kl"],
            "federation.weighting is kl, must be one of kld, samples, uniform or the import path",
        ),
        (
            ["--model.method.discriminator.minibatch_std", "maybe"],
            "discriminator.init_args.minibatch_std is maybe, must be true or false",
        ),
        (["--evaluation.level", "slow"], "evaluation.level is slow, must be one of "),
        (
            ["--trainer.max_epochs", "many"],
            "trainer.max_epochs is many, must be a whole number or null",
        ),
        (
            ["--data.init_args.clients_per_domain", "two"],
            "data.init_args.clients_per_domain is two, must be a whole number or a list of whole",
        ),
        (["--modle.engine", "serial"], "did you mean model.engine?"),
        (["--config", "nothere.yaml"], "config nothere.yaml: there is no such file"),
    ],
)
def test_options_are_refused_in_one_line(capsys, options, message):
    line = refuse(["fit", "--config", "mini.yaml", *options], capsys)
    assert message in line
    assert "Subtypes" not in line and "Given value" not in line and len(line) < 500
    assert "Namespace" not in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "classes: [no, yes]",
            "data.init_args.classes is [False, True], must be a list of text or null; YAML reads "
            "yes, no, on and off as true and false: put names in quotes, 'no'",
        ),
        ("classes: [0, 1]", "YAML reads digits as numbers: put names in quotes, '0'"),
        ("image_size: 64px", "data.init_args.image_size is 64px, must be a whole number"),
        ("window: 4095", "data.init_args.window is 4095, must be [a number, a number] or null"),
    ],
)
def test_values_in_a_file_are_refused_in_one_line(capsys, arguments, message):
    Path("own.yaml").write_text(FOLDER % ("sources: {x: mri}, " + arguments))
    line = refuse(["fit", "--config", "mini.yaml", "--config", "own.yaml"], capsys)
    assert message in line and len(line) < 300


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data:\n  class_path: [a\n  b: c\n", "bad.yaml, line 3, column 4: not YAML: "),
        (b"data: {a: *nowhere}\n", "bad.yaml, line 1, column 11: not YAML: found undefined alias"),
        (b"a: \x07\n", "bad.yaml: not a configuration: binary data, no text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "bad.yaml: not a configuration: binary data, no text"),
        (b"model: 3\n", "bad.yaml: model is 3, must be a mapping of its keys"),
        (b"federation: [1]\n", "bad.yaml: federation is [1], must be a mapping of its keys"),
    ],
)
@pytest.mark.parametrize("form", [["--config", "bad.yaml"], ["--config=bad.yaml"]])
def test_the_file_that_is_wrong_is_named(capsys, content, message, form):
    Path("bad.yaml").write_bytes(content)
    assert message in refuse(["fit", "--config", "mini.yaml", *form], capsys)


def test_fit_alone_says_what_is_missing(capsys):
    line = refuse(["fit"], capsys)
    assert "the data are missing: give --config FILE, for instance --config quickstart" in line


def test_a_message_of_an_unknown_kind_stays_as_it_is():
    assert shorten("something else went wrong") == "something else went wrong"
