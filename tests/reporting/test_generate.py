"""`huscf generate` as a user meets it, and sample sets as values."""

import csv
import io
import re
import shlex
import wave
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from huscf.__main__ import main
from huscf.commands import COMMANDS
from huscf.datamodules import LogMel
from huscf.errors import HuscfError
from huscf.randomness import make_generator
from huscf.sampling import draw_sample_set, load_gan, sample_set, write_sample_set
from huscf.sampling.picture_grid import draw_picture_grid


def generate(checkpoint, output, *options):
    return main(["generate", f"--ckpt_path={checkpoint}", f"--output={output}", *options])


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_samples_are_balanced_and_the_pictures_are_those_of_the_archive(checkpoint, tmp_path):
    assert generate(checkpoint, tmp_path / "out", "--num_samples=43") == 0
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        found = dict(archive)
    assert found["samples"].shape == (43, 1, 8, 8)
    assert found["samples"].dtype == np.float32
    assert np.abs(found["samples"]).max() <= 1
    assert set(np.bincount(found["labels"])) == {4, 5}
    assert set(np.bincount(found["client"])) == {10, 11}
    assert found["cluster"].tolist() == [int(c >= 2) for c in found["client"]]
    pictures = sorted((tmp_path / "out").glob("*/*/*.png"))
    assert len(pictures) == 43
    for path in pictures:
        index = int(path.stem)
        assert path.parent.name == str(found["labels"][index])
        assert path.relative_to(tmp_path / "out").as_posix() == found["file"][index]
        expected = (found["samples"][index, 0] + 1) * 127.5
        assert np.abs(np.asarray(Image.open(path)) - expected).max() <= 0.51


@pytest.mark.parametrize("num_chosen", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("num_clients", [1, 2, 3, 4])
def test_any_number_of_samples_is_even_over_classes_clients_and_pairs(
    num_chosen, num_clients, checkpoint
):
    saved, chosen = load_gan(checkpoint), list(range(num_chosen))
    for count in (1, 2, 3, 5, 8, 12, 23, 40, 97):
        labels, client = sample_set._share_out(saved, count, range(num_clients), chosen)
        pairs = torch.zeros(num_chosen, num_clients)
        pairs.index_put_((labels, client), torch.ones(count), accumulate=True)
        assert pairs.sum() == count
        for counts in (pairs.sum(0), pairs.sum(1), *pairs):
            assert counts.max() - counts.min() <= 1


def test_three_samples_of_four_clients_are_of_three(checkpoint, tmp_path):
    assert generate(checkpoint, tmp_path / "out", "--num_samples=3") == 0
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert archive["client"].tolist() == [0, 1, 2]
        assert archive["labels"].tolist() == [0, 1, 2]
        assert archive["cluster"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("room", ["memory", "disk"])
def test_samples_that_cannot_fit_are_one_line(room, checkpoint, tmp_path, capsys, monkeypatch):
    # 280 bytes a sample; in memory twice.
    free = {"memory": 2 * 280e3, "disk": 280e3}[room]
    monkeypatch.setattr(sample_set, f"_free_{room}", lambda *args: free)
    assert generate(checkpoint, tmp_path / "out", "--num_samples=1001") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"num_samples is 1001: needs 0.0 GB of {room}" in line
    sample_set.check_room(load_gan(checkpoint).module, 1000, tmp_path / "out")
    assert generate(checkpoint, tmp_path / "out", f"--num_samples={10**30}") == 2
    assert not (tmp_path / "out").exists()


def test_the_last_run_and_a_runs_folder_are_checkpoints(run, tmp_path, capsys, monkeypatch):
    assert generate(run, tmp_path / "a", "--num_samples=4") == 0
    assert generate(tmp_path, tmp_path / "none") == 2
    assert "a folder, and there is no" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert generate("last", tmp_path / "none") == 2
    assert "no run with a checkpoint below runs; name a file" in capsys.readouterr().err
    (tmp_path / "runs").symlink_to(run.parent)
    assert generate("last", tmp_path / "b", "--num_samples=4") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_classes_are_given_by_name_or_number(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    names = ["1", "mole", "2", *map(str, range(4, 11))]
    content["huscf_data"]["class_names"] = names
    content["huscf_data"]["domain_class_names"] = dict.fromkeys(("digits", "negatives"), names)
    torch.save(content, tmp_path / "named.ckpt")
    for given, expected in (
        (["mole"], ["1-mole"]),
        (["2", "1"], ["0-1", "2"]),  # names, since all of them are
        (["0", "1"], ["0-1", "1-mole"]),  # there is no class of the name 0
    ):
        output = tmp_path / "-".join(given)
        assert (
            generate(tmp_path / "named.ckpt", output, "--num_samples=4", "--classes", *given) == 0
        )
        for domain in ("digits", "negatives"):
            assert sorted(p.name for p in (output / domain).iterdir()) == expected
    capsys.readouterr()
    assert generate(checkpoint, tmp_path / "out", "--classes", "2", "seven") == 2
    assert capsys.readouterr().err == (
        "huscf: error: --classes 2 seven: there are "
        "0 0, 1 1, 2 2, 3 3, 4 4, 5 5, 6 6, 7 7, 8 8, 9 9\n"
    )


@pytest.mark.parametrize("command", ["generate", "export", "compare", "report"])
def test_help_has_an_example_that_parses(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = capsys.readouterr().out
    (line,) = [x.strip() for x in out.splitlines() if x.startswith(f"  huscf {command} ")]
    assert "clients.csv" in out or command in ("compare", "report")
    parser = ArgumentParser()
    COMMANDS[command][0](parser)
    parser.parse_args(shlex.split(line)[2:])


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_a_place_where_nothing_can_be_made_is_one_line(checkpoint, run, capsys):
    options = [f"--ckpt_path={checkpoint}", "--output=/proc/x.png"]
    for command in (["generate", "--num_samples=2"], ["export", "--cluster=0"]):
        assert main([*command, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("huscf: error: output /proc/x.png: cannot be made (")
    assert main(["compare", str(run), options[1]]) == 2
    assert "output /proc/x.png: cannot be made" in capsys.readouterr().err


def test_few_samples_come_from_many_clients(checkpoint, tmp_path):
    assert generate(checkpoint, tmp_path / "out", "--num_samples=10") == 0
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert set(np.bincount(archive["client"])) <= {2, 3}
    assert generate(checkpoint, tmp_path / "more", "--num_samples=60") == 0
    with np.load(tmp_path / "more" / "samples.npz") as archive:
        for label in range(10):
            drawn = np.bincount(archive["client"][archive["labels"] == label], minlength=4)
            assert set(drawn) == {1, 2}


@pytest.mark.parametrize("seed", [99999999999999999999, -(2**63) - 1, 10**500])
def test_a_seed_that_no_file_of_samples_holds_is_refused_before_drawing(
    seed, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sample_set, "make_generator", None)  # nothing is drawn
    assert generate(checkpoint, tmp_path / "out", "--num_samples=3", f"--seed={seed}") == 2
    error = capsys.readouterr().err
    assert f"seed is {seed}, must be from {-(2**63)} to {2**63 - 1}" in error
    assert error.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [-(2**63), 2**63 - 1])
def test_any_seed_of_64_bits_draws(seed, checkpoint, tmp_path):
    assert generate(checkpoint, tmp_path / "out", "--num_samples=3", f"--seed={seed}") == 0
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert archive["seed"].tolist() == [seed] * 3


def test_the_same_command_gives_the_same_bytes_and_another_seed_does_not(checkpoint, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert generate(checkpoint, tmp_path / name, "--num_samples=20", f"--seed={seed}") == 0
    one, same, other = (contents(tmp_path / name) for name in "abc")
    assert one == same
    assert one.keys() == other.keys()
    assert one != other


def test_clients_clusters_and_classes_can_be_chosen(checkpoint, tmp_path):
    options = ["--num_samples=12", "--classes", "7", "2"]
    assert generate(checkpoint, tmp_path / "a", *options, "--client", "3", "0") == 0
    assert generate(checkpoint, tmp_path / "b", *options, "--cluster", "1") == 0
    with np.load(tmp_path / "a" / "samples.npz") as archive:
        assert set(archive["client"]) == {0, 3}
        assert np.bincount(archive["labels"]).tolist() == [0, 0, 6, 0, 0, 0, 0, 6]
    with np.load(tmp_path / "b" / "samples.npz") as archive:
        assert set(archive["client"]) == {2, 3}
        assert set(archive["cluster"]) == {1}


def test_samples_are_those_of_the_trained_module(checkpoint):
    saved = load_gan(checkpoint)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    own = saved.module.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name]) for name in state)
    before = torch.get_rng_state()
    drawn = draw_sample_set(load_gan(checkpoint), 20, [1])
    assert torch.equal(before, torch.get_rng_state())
    network = saved.module.engine.sampling_network("generator", 1).eval()
    noise = torch.randn(20, 100, generator=make_generator(0, "generate", 1))
    with torch.no_grad():
        assert torch.equal(drawn.samples, network(noise, drawn.labels))


def test_a_class_is_drawn_by_clients_alone_whose_data_may_have_it(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["huscf_data"]["num_classes"] = {0: 2, 1: 2, 2: 3, 3: 3}
    torch.save(content, tmp_path / "two.ckpt")
    assert generate(tmp_path / "two.ckpt", tmp_path / "a", "--num_samples=24") == 0
    with np.load(tmp_path / "a" / "samples.npz") as archive:
        labels, client = archive["labels"], archive["client"]
    assert np.bincount(labels).tolist() == [8, 8, 8]
    assert np.bincount(client[labels == 1]).tolist() == [2, 2, 2, 2]
    assert np.bincount(client[labels == 2]).tolist() == [0, 0, 4, 4]
    for options, known in ((["--client", "0", "1"], "0, 1"), ([], "0 to 2")):
        assert generate(tmp_path / "two.ckpt", tmp_path / "b", "--classes", "3", *options) == 2
        assert f"there is no class 3; there are {known}" in capsys.readouterr().err


def test_checkpoints_that_do_not_tell_the_clients_classes_draw_all(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    assert content["huscf_data"].pop("num_classes") == dict.fromkeys(range(4), 10)
    torch.save(content, tmp_path / "old.ckpt")
    assert load_gan(tmp_path / "old.ckpt").num_classes == dict.fromkeys(range(4), 10)


def damage(kind, source, target):
    """Write a checkpoint with one thing wrong."""
    content = torch.load(source, weights_only=True)
    if kind == "truncated":
        target.write_bytes(source.read_bytes()[:2000])
        return
    if kind == "foreign":
        content = {"state_dict": content["state_dict"]}
    elif kind == "untrained":
        content["global_step"] = 0
    elif kind == "other network":
        method = content["huscf_config"]["model"]["method"]["init_args"]
        method["generator"]["init_args"]["width"] = 8
    elif kind == "diverged":
        for tensor in content["state_dict"].values():
            tensor.fill_(float("nan")) if tensor.is_floating_point() else None
    torch.save(content, target)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "damaged"),
        ("foreign", "not a checkpoint of huscf"),
        ("untrained", "untrained, it has made no step"),
        ("other network", "the checkpoint is of another network"),
        ("diverged", "draws NaN or Inf"),
    ],
)
def test_a_checkpoint_that_cannot_serve_is_one_line(kind, message, checkpoint, tmp_path, capsys):
    damage(kind, checkpoint, tmp_path / "bad.ckpt")
    assert generate(tmp_path / "bad.ckpt", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_samples=0"], "num_samples is 0, must be at least 1"),
        (["--client", "4"], "there is no client 4; there are 0 to 3"),
        (["--cluster", "2"], "there is no cluster 2; there are 0, 1"),
        (["--classes", "3", "10"], "there is no class 10; there are 0 to 9"),
    ],
)
def test_wishes_that_cannot_be_met_are_one_line(options, message, checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "out", *options) == 2
    assert capsys.readouterr().err == f"huscf: error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused_and_left_alone(checkpoint, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert generate(checkpoint, tmp_path) == 2
    assert "has files in it; nothing was written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_place_that_cannot_be_written_is_one_line(checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place, message in (("file", "is a file"), ("file/below", "cannot write below")):
        assert generate(checkpoint, tmp_path / place) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_samples", "many"], "argument --num_samples: invalid int value: 'many'"),
        (["--client", "1", "--cluster", "0"], "not allowed with argument --client"),
        (["--clas", "1"], "unrecognized arguments: --clas 1"),
    ],
)
def test_options_that_do_not_parse_are_one_line(options, message, checkpoint, tmp_path, capsys):
    assert generate(checkpoint, tmp_path / "out", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "see huscf generate --help" in line


def test_sounds_are_wav_files_in_folders_named_after_the_classes(checkpoint, tmp_path):
    saved = load_gan(checkpoint)
    drawn = draw_sample_set(saved, 4, [0], classes=[0, 1])
    spectrogram = LogMel(sample_rate=8000, duration_s=0.64, size=8)
    drawn = replace(drawn, class_name=("zero", "o/ne", "zero", "o/ne"))
    for name in "ab":
        write_sample_set(drawn, tmp_path / name, spectrogram)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    sounds = sorted((tmp_path / "a").glob("digits/*/*.wav"))
    assert [p.parent.name for p in sounds] == ["0-zero", "0-zero", "1-o_ne", "1-o_ne"]
    with wave.open(str(sounds[0])) as file:
        assert (file.getframerate(), file.getnframes()) == (8000, spectrogram.num_samples)


def test_a_page_beside_sounds_has_players_for_every_class(checkpoint, tmp_path):
    drawn = draw_sample_set(load_gan(checkpoint), 30, [0, 2], classes=[0, 1])
    names = tuple("<b>zero</b>" if label == 0 else "one" for label in drawn.labels)
    drawn = replace(drawn, class_name=names)
    write_sample_set(drawn, tmp_path / "out", LogMel(sample_rate=8000, duration_s=0.64, size=8))
    html = (tmp_path / "out" / "index.html").read_text()
    headings = re.findall(r"<h([23])>(.*?)</h", html)
    escaped = [("3", "&lt;b&gt;zero&lt;/b&gt;"), ("3", "one")]
    assert headings == [("2", "digits"), *escaped, ("2", "negatives"), *escaped]
    files = re.findall(r'<audio controls preload="metadata" src="(.*?)"', html)
    assert len(set(files)) == len(files) == 2 * 2 * 4
    assert all((tmp_path / "out" / file).is_file() for file in files)
    assert "<script" not in html


def read_manifest(folder):
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_manifest_says_of_every_file_where_it_is_from_and_so_does_the_archive(
    checkpoint, tmp_path
):
    assert generate(checkpoint, tmp_path / "out", "--num_samples=21", "--seed=7") == 0
    rows = read_manifest(tmp_path / "out")
    domains = {"0": "digits", "1": "digits", "2": "negatives", "3": "negatives"}
    assert len(rows) == 21
    for row in rows:
        assert row["domain"] == domains[row["client"]]
        assert row["file"].startswith(f"{row['domain']}/{row['class']}/")
        assert (tmp_path / "out" / row["file"]).is_file()
        assert row["class"] == row["labels"] and row["seed"] == "7"
        assert row["cluster"] == str(int(row["client"]) // 2)
    with np.load(tmp_path / "out" / "samples.npz") as archive:
        assert set(archive) == {"samples", *rows[0]}
        for name in rows[0]:
            assert list(map(str, archive[name])) == [row[name] for row in rows]


def test_without_domains_folders_are_those_of_the_clusters(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    del content["huscf_data"]["domains"], content["huscf_data"]["domain_class_names"]
    torch.save(content, tmp_path / "old.ckpt")
    assert generate(tmp_path / "old.ckpt", tmp_path / "out", "--num_samples=20") == 0
    assert {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()} == {
        "cluster-0",
        "cluster-1",
    }
    assert {row["domain"] for row in read_manifest(tmp_path / "out")} == {""}


def test_names_in_data_lead_out_of_no_folder_and_are_no_formula(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    names = ["../../x", "=cmd|' /C calc'!A0", "con", "\x1b[2Jred\nline", "", "a" * 500]
    domains = {0: "..", 1: "..", 2: "NUL", 3: "nul"}
    content["huscf_data"]["domains"] = domains
    content["huscf_data"]["domain_class_names"] = {d: names for d in domains.values()}
    torch.save(content, tmp_path / "odd.ckpt")
    output = tmp_path / "out" / "samples"
    assert generate(tmp_path / "odd.ckpt", output, "--num_samples=40") == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["samples"]
    assert {p.name for p in output.iterdir() if p.is_dir()} == {"__", "NUL_", "nul_-2"}
    folders = {p.name for p in (output / "__").iterdir()}
    assert {"0-______x", "2-con_", "3-_x1b_2Jred_line", "4-_"} <= folders
    assert max(map(len, folders)) < 70
    rows = read_manifest(output)
    assert {row["class"] for row in rows if row["labels"] == "1"} == {f"'{names[1]}"}
    assert {row["class"] for row in rows if row["labels"] == "3"} == {"\\x1b[2Jred line"}
    assert {row["class"] for row in rows if row["labels"] == "6"} == {"6"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_a_row_for_every_class_with_its_name_before_it(channels):
    rows = [torch.full((n, channels, 8, 8), 40 * n, dtype=torch.uint8) for n in (3, 1)]
    grid = Image.open(io.BytesIO(draw_picture_grid(rows, ["zero", "a name that is very long" * 9])))
    assert grid.mode == "RGBA" and grid.height == 2 + 2 * 34
    pixels = np.asarray(grid)
    left = grid.width - 3 * 34
    for line, count in enumerate((3, 1)):
        cells = pixels[2 + 34 * line : 34 + 34 * line, left:].reshape(32, 3, 34, 4)[:, :, :32]
        for column in range(3):
            wanted = [40 * count] * 3 + [255] if column < count else [0] * 4
            assert (cells[:, column] == wanted).all()
        # Something is written, and not up to the pictures and their edge.
        assert pixels[34 * line : 34 * line + 34, : left - 6, 3].any()
        assert not pixels[34 * line : 34 * line + 34, left - 6 : left - 2, 3].any()
    assert left < 330


def test_an_unknown_class_is_refused_by_the_function_too(checkpoint):
    with pytest.raises(HuscfError, match="there is no class -1"):
        draw_sample_set(load_gan(checkpoint), 4, [0], classes=[-1])


@pytest.mark.parametrize("fails_at", [1, 3, 9])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_set_that_cannot_be_written_whole_leaves_nothing(
    checkpoint, tmp_path, monkeypatch, capsys, fails_at, kind
):
    save, calls = Image.Image.save, []

    def fail(self, *arguments, **options):
        calls.append(1)
        if len(calls) == fails_at:
            raise kind(28, "No space left on device")
        save(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", fail)
    (tmp_path / "out").mkdir()
    if kind is OSError:
        assert generate(checkpoint, tmp_path / "out", "--num_samples=10") == 2
        assert f"{tmp_path / 'out'}: No space left on device" in capsys.readouterr().err
    else:
        assert generate(checkpoint, tmp_path / "out", "--num_samples=10") == 130
        assert capsys.readouterr().err.endswith("huscf: stopped\n")
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    assert generate(checkpoint, tmp_path / "out", "--num_samples=10") == 0
