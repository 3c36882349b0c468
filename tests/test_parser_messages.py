"""What the parser refuses: one line with the key, what it must be, and what was meant."""

import itertools
import sys
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
        (["--federation.beta", "9" * 400], "a number is beyond 1.8e308, the largest that there is"),
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
        (b"", "bad.yaml: not a configuration: needs keys such as data: or model:"),
        (b"# nothing yet\n", "bad.yaml: not a configuration: needs keys such as data: or model:"),
        (b"just text\n", "bad.yaml: not a configuration: needs keys such as data: or model:"),
        (b"- data\n", "bad.yaml: not a configuration: needs keys such as data: or model:"),
        (b"model: 3\n", "bad.yaml: model is 3, must be a mapping of its keys"),
        (b"federation: [1]\n", "bad.yaml: federation is [1], must be a mapping of its keys"),
    ],
)
@pytest.mark.parametrize("form", [["--config", "bad.yaml"], ["--config=bad.yaml"]])
def test_the_file_that_is_wrong_is_named(capsys, content, message, form):
    Path("bad.yaml").write_bytes(content)
    assert message in refuse(["fit", "--config", "mini.yaml", *form], capsys)


def test_a_file_of_another_ending_is_named_too(capsys):
    Path("notes.md").write_text("# Notes\n\n**Bold** words\n")
    for form in (["--config", "notes.md"], ["--config=notes.md"], ["-c", "notes.md"]):
        line = refuse(["fit", "--config", "mini.yaml", *form], capsys)
        assert line.startswith("huscf: error: notes.md, line 3, column 2: not YAML: expected")


def test_an_empty_checkpoint_path_is_named(capsys):
    line = refuse(["fit", "--config", "mini.yaml", "--ckpt_path", ""], capsys)
    assert line == "huscf: error: --ckpt_path: needs a file, a run's folder, last or best"


def test_fit_alone_says_what_is_missing(capsys):
    line = refuse(["fit"], capsys)
    assert "the data are missing: give --config FILE, for instance --config quickstart" in line


def test_a_message_of_an_unknown_kind_stays_as_it_is():
    assert shorten("something else went wrong") == "something else went wrong"


OWN = {
    "__init__": "",
    "broken": "import nosuchlib\n",
    "odd": "x = 1\ndef f(:\n",
    "failing": "\nraise RuntimeError('no card\\nhere')\n",
    "late": "from .broken import X\n",
    "good": "from huscf.methods import HuscfGan\n\n\nclass Mine(HuscfGan):\n    pass\n",
}
GENERATOR = "model: {method: {class_path: %s, init_args: {generator: {class_path: %s}}}}"


PACKAGES = itertools.count()


@pytest.fixture
def own(work, tmp_path, monkeypatch):
    """A package of the user's own, whose modules do not all import, under a name never used before.

    Parsers find its classes as long as they live, and they cannot be made to end: so what has
    been imported stays.
    """
    folder = tmp_path / f"mine_own_{next(PACKAGES)}"
    folder.mkdir()
    for name, content in OWN.items():
        (folder / f"{name}.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine_own.broken.X", "mine_own/broken.py, line 1: No module named 'nosuchlib'"),
        ("mine_own.late.X", "mine_own/broken.py, line 1: No module named 'nosuchlib'"),
        ("mine_own.odd.X", "mine_own/odd.py, line 2: SyntaxError invalid syntax"),
        ("mine_own.failing.X", "mine_own/failing.py, line 2: RuntimeError no card here"),
    ],
)
@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("model.method", ("--model.method", "%s")),
        ("model.method.init_args.loss", ("--model.method.loss", "%s")),
        ("federation.rule", ("--federation.rule", "%s")),
        ("data", ("--config", "data: {class_path: %s, init_args: {seed: 1}}")),
        ("model.method", ("--config", GENERATOR.replace("%s", "mine_own.good.Mine", 1))),
    ],
)
def test_what_a_module_of_the_user_s_raises_is_said(own, capsys, name, message, key, option):
    given = [part.replace("%s", name).replace("mine_own", own) for part in option]
    name, message = (text.replace("mine_own", own) for text in (name, message))
    if given[0] == "--config":
        Path("own.yaml").write_text(given[1])
        given[1] = "own.yaml"
    line = refuse(["fit", "--config", "mini.yaml", *given], capsys)
    assert line.startswith(f"huscf: error: {key}") and "there are" not in line
    assert line.endswith(f": {name} cannot be imported: {message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.deep.X", "no nowhere.deep.X: no module nowhere; is its folder on PYTHONPATH?"),
        ("mine_own.nowhere.X", "there is no mine_own.nowhere.X: no module mine_own.nowhere"),
        ("mine_own.good.Her", "there is no mine_own.good.Her; there are FeGan, "),
        (
            "mine_own.good.Mine.Her",
            "model.method is mine_own.good.Mine.Her, must be Method or null",
        ),
        ("huscf.nowhere.X", "model.method: there is no huscf.nowhere.X; there are FeGan"),
    ],
)
def test_a_module_that_is_not_there_is_named(own, capsys, name, message):
    name, message = (text.replace("mine_own", own) for text in (name, message))
    assert message in refuse(["fit", "--config", "mini.yaml", "--model.method", name], capsys)


def test_the_data_s_own_module_is_named_by_check_data_too(own, capsys):
    Path("own.yaml").write_text(f"data: {{class_path: {own}.broken.X, init_args: {{a: 1}}}}")
    line = refuse(["check-data", "--config", "own.yaml"], capsys)
    assert f"data: {own}.broken.X cannot be imported: {own}/broken.py, line 1: No" in line


def test_only_what_the_user_names_is_imported_for_a_message(own):
    line = (
        'Parser key "federation.rule": Does not validate against any of the Union subtypes '
        "Subtypes: [collections.abc.Callable[..., typing.Any], <class 'NoneType'>] Errors: - "
        "no card here Given value type: <class 'str'> Given value: "
    ) + f"{own}.failing.X"
    assert f"federation.rule is {own}.failing.X, must be" in shorten(line, {f"{own}.good.Mine"})
    assert own not in sys.modules
    assert "RuntimeError no card here" in shorten(line, {f"{own}.failing.X"})


def test_a_value_that_is_no_class_s_is_not_imported(own, capsys):
    option = ["--trainer.max_epochs", f"{own}.good.Mine"]
    line = refuse(["fit", "--config", "mini.yaml", *option], capsys)
    assert f"trainer.max_epochs is {own}.good.Mine, must be a whole number or null" in line
    assert own not in sys.modules
