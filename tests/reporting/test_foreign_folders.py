"""`report` and `compare` on a folder that may be anybody's: nothing is read or written outside."""

import csv
import json
import os
import shutil
import time

import pytest
import yaml

from huscf.__main__ import main
from huscf.callbacks.run_folder import write_csv
from huscf.reporting import RunRecord, write_page
from huscf.reporting.federation_history import FederationRow, append_federation, read_federation
from huscf.reporting.run_record import write_clients
from huscf.whole_files import escape_cell, replacing, unescape_cell, write_text


@pytest.fixture
def folder(run, tmp_path):
    """A copy of a run's folder that may be changed."""
    return shutil.copytree(run, tmp_path / "foreign" / "run")


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_text("my secret")
    return path


def refuse(arguments, capsys):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


FILES = ["config.yaml", "plan.yaml", "metrics.csv", "clients.csv", "federation.csv", "metrics.json"]
SAMPLES = ["samples/digits-final.png", "samples/x-round-0001.png", "samples/x-final.wav"]


@pytest.mark.parametrize("name", [*FILES, *SAMPLES])
def test_a_link_out_of_the_folder_is_not_followed(folder, secret, capsys, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    (folder / "report.html").unlink()
    assert "a link out of" in refuse(["report", folder], capsys)
    assert not (folder / "report.html").exists()


def test_a_linked_folder_of_samples_is_not_followed_either(folder, tmp_path, capsys):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(folder / "samples", elsewhere)
    (folder / "samples").symlink_to(elsewhere)
    assert "a link out of" in refuse(["report", folder], capsys)


def test_a_run_folder_that_is_itself_a_link_is_shown(folder, tmp_path, capsys):
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert main(["report", str(link)]) == 0 and main(["compare", str(link)]) == 0


@pytest.mark.parametrize("name", ["report.html", "report.html.partial", "charts/curves.png"])
def test_nothing_is_written_through_a_link(folder, secret, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    assert main(["report", str(folder)]) == 0
    assert secret.read_text() == "my secret"
    assert not (folder / "report.html").is_symlink()


def test_a_linked_folder_of_charts_is_named(folder, tmp_path, capsys):
    shutil.rmtree(folder / "charts")
    (tmp_path / "home").mkdir()
    (folder / "charts").symlink_to(tmp_path / "home")
    assert "charts: a link, which is not followed" in refuse(["report", folder], capsys)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "samples/digits-final.png"])
def test_a_pipe_does_not_make_it_wait(folder, capsys, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "no file" in refuse(["report", folder], capsys)


@pytest.mark.parametrize(
    ("name", "limit"),
    [("config.yaml", 8), ("plan.yaml", 8), ("metrics.csv", 64), ("samples/digits-final.png", 64)],
)
def test_a_file_that_is_too_large_is_not_read(folder, capsys, name, limit):
    with (folder / name).open("r+b") as file:
        file.truncate(limit * 2**20 + 1)
    assert f"larger than {limit} MiB" in refuse(["report", folder], capsys)


def make_laughs():
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefghi", "bcdefghij", strict=True):
        text += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    return text


ENDLESS = "a: &a\n  b: *a\n"
DEEP = "a: " + "[" * 3000 + "]" * 3000 + "\n"


@pytest.mark.parametrize("name", ["config.yaml", "plan.yaml"])
@pytest.mark.parametrize("text", [make_laughs(), ENDLESS, DEEP], ids=["laughs", "endless", "deep"])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_yaml_that_stands_for_too_much_is_refused_soon(folder, capsys, name, text, command):
    with (folder / name).open("a") as file:
        file.write(text)
    start = time.monotonic()
    line = refuse([command, folder], capsys)
    assert str(folder / name) in line and "too often, or are nested too deep" in line
    assert time.monotonic() - start < 20


def test_json_that_is_nested_too_deep_is_one_line(folder, capsys):
    (folder / "metrics.json").write_text("[" * 100_000)
    assert "metrics.json: cannot be read" in refuse(["report", folder], capsys)


def test_yaml_makes_no_object(folder, tmp_path, capsys):
    marker = tmp_path / "marker"
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {marker}']\n")
    assert "config.yaml: cannot be read" in refuse(["report", folder], capsys)
    assert not marker.exists()


def test_aliases_of_an_honest_configuration_are_read(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    shared = [1, 2, 3]
    config["trainer"] |= {"one": shared, "other": shared}
    text = yaml.safe_dump(config)
    assert "&id001" in text
    (folder / "config.yaml").write_text(text)
    assert RunRecord.read(folder).config["trainer"]["other"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.yaml", "{generator_blocks: 100000000, discriminator_blocks: 4, clients: 0}"),
        ("metrics.csv", "round,eval/x/judge_accuracy\n1,many\n"),
        ("metrics.csv", "round,eval/\n1,2\n"),
        ("clients.csv", "client,cluster\n0,=1+1\n"),
        ("clients.csv", "client,uplink_mbytes,downlink_mbytes\nx,1e999,nan\n"),
        ("federation.csv", "round,client\n1,2\n"),
        ("config.yaml", "{data: 3, model: 4}"),
        ("config.yaml", "- a\n"),
        ("metrics.json", '{"domains": {"x": {"together": {"label_accuracy": "high"}}}}'),
        ("metrics.json", '{"domains": {"x": {"together": {}, "over_seeds": 3}}}'),
        ("metrics.json", '{"domains": {}, "round": "last"}'),
    ],
)
def test_files_that_are_not_what_a_run_writes_are_no_traceback(folder, capsys, name, text):
    (folder / name).write_text(text)
    for command in ("report", "compare"):
        capsys.readouterr()
        code = main([command, str(folder)])
        lines = capsys.readouterr().err.splitlines()
        assert (code, len(lines)) in ((0, 0), (2, 1))


def test_names_cannot_steer_the_terminal_or_the_page(folder, capsys):
    name = "ward\x1b]0;hacked\x07[red]<img src=x onerror=alert(1)>"
    (folder / "metrics.csv").write_text(f'round,"eval/{name}/judge_accuracy"\n1,0.5\n')
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["seed_everything"] = name
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    assert "<img src=x" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert main(["compare", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "\x1b]" not in out and "\x07" not in out and "[red]" in out.replace("\n", "")
    (folder / "config.yaml").write_text(f'"{name}'.replace("\x1b", "\\e").replace("\x07", "\\a"))
    assert "\x1b" not in refuse(["report", folder], capsys)


CELLS = {
    "=HYPERLINK(1)": "'=HYPERLINK(1)",
    "+1+cmd": "'+1+cmd",
    "-2+3": "'-2+3",
    "@SUM(A1)": "'@SUM(A1)",
    "\t=1": "'\t=1",
    "'quoted": "''quoted",
    "-0.5": "-0.5",
    "+1e-3": "+1e-3",
    "St. Mary": "St. Mary",
    "": "",
}


@pytest.mark.parametrize("cell", CELLS)
def test_names_are_no_formulas_and_numbers_stay_numbers(cell):
    assert escape_cell(cell) == CELLS[cell]
    assert unescape_cell(CELLS[cell]) == cell
    assert escape_cell(-0.5) == -0.5


def test_every_table_of_a_run_escapes_names_and_is_read_back(tmp_path):
    name = "=HYPERLINK(A1)"
    write_clients(tmp_path / "clients.csv", [{"client": 0, "domain": name, "map_x": -0.5}])
    row = FederationRow(1, 0, name, 0, 5, -0.25, 1.0, -9.5, 0.5)
    append_federation(tmp_path / "federation.csv", [row])
    write_csv(tmp_path / "metrics.csv", [{"round": 1, "@eval": -1.5}])
    for file in ("clients.csv", "federation.csv", "metrics.csv"):
        with (tmp_path / file).open(newline="") as stream:
            cells = [cell for line in csv.reader(stream) for cell in line]
        assert not [c for c in cells if c.startswith(("=", "@"))]
        assert [c for c in cells if c.startswith("-")]
    assert read_federation(tmp_path / "federation.csv") == [row]


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one_and_no_rest(tmp_path):
    path = tmp_path / "file"
    write_text(path, "old")

    def fill(partial):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="file") as caught, replacing(path) as partial:
        fill(partial)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_test_of_an_older_version_is_read(folder):
    (folder / "metrics.json").write_text(json.dumps({"domains": {"digits": {"together": {}}}}))
    assert write_page(RunRecord.read(folder)).exists()


@pytest.mark.parametrize("command", ["report", "compare"])
def test_a_run_of_an_earlier_version_is_named_as_such(folder, capsys, command):
    (folder / "config.yaml").write_text(
        "data: {class_path: huscf.datamodules.DigitsDataModule}\n"
        "model: {generator: {class_path: huscf.models.ConditionalGenerator}, latent_dim: 100}\n"
    )
    assert main([command, str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"{folder / 'config.yaml'}: of a run of huscf before 0.2" in error
    assert "version that wrote it" in error and error.count("\n") == 1
