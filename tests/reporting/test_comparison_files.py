"""Tables of runs as files: what stands in them, which figure is the best, what is left out."""

import csv

import pytest

from huscf.__main__ import main
from huscf.errors import HuscfError
from huscf.reporting import RunRecord
from huscf.reporting.comparison_files import make_figure_table, write_comparison
from huscf.reporting.figure_table import (
    FigureRow,
    FigureTable,
    Spread,
    choose_best,
    find_direction,
    name_column,
)
from tests.reporting.test_comparison import repeat


def score(folder, seed, accuracy, distance, **others):
    """Replace a run's figures by scores of one round."""
    names = ["round", "eval/my_d/label_accuracy", "eval/my_d/frechet_distance", *others]
    values = [1, accuracy, distance, *others.values()]
    lines = [",".join(names), ",".join("" if v is None else str(v) for v in values)]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def folders(run, tmp_path):
    """Two seeds of one method, and one run of another."""
    a0 = score(repeat(run, tmp_path / "one-seed0-1", 0, [1.0]), 0, 0.5, 9.0)
    a1 = score(repeat(run, tmp_path / "one-seed1-1", 1, [1.0]), 1, 0.75, 7.0)
    extra = {"federation/ari": 1.0}
    other = repeat(run, tmp_path / "other-1", 0, [1.0], generator_lr=0.25)
    return [a0, a1, score(other, 0, 0.875, 8.5, **extra)]


def test_markdown_has_a_line_a_method_and_the_best_in_bold(folders, tmp_path, capsys):
    path = tmp_path / "t.md"
    assert main(["compare", *map(str, folders), "--output", str(path)]) == 0
    assert path.read_text().splitlines() == [
        "| run | seeds | federation/ari ↑ | my_d: label accuracy ↑ | my_d: Frechet distance ↓ |",
        "| --- | --- | ---: | ---: | ---: |",
        "| one | 2 | - | 0.625 ± 0.18 | **8 ± 1.4** |",
        "| other-1 | 1 | 1 | **0.875** | 8.5 |",
    ]
    out = capsys.readouterr().out
    assert f"table: {path}" in out
    lines = [line for line in out.split("Mean")[0].splitlines() if "label_accuracy" in line]
    assert [cell.strip() for cell in lines[0].split("│")[2:5]] == ["0.5", "0.75", "0.875 *"]
    assert "* the best of its line" in out


def test_latex_is_a_tabular_with_its_signs_escaped(folders, tmp_path):
    path = tmp_path / "t.tex"
    patterns = ["eval/*/label_accuracy"]
    write_comparison(path, [RunRecord.read(folder) for folder in folders], patterns)
    assert path.read_text().splitlines() == [
        r"\begin{tabular}{llr}",
        r"\toprule",
        r"run & seeds & my\_d: label accuracy $\uparrow$ \\",
        r"\midrule",
        r"one & 2 & 0.625 $\pm$ 0.18 \\",
        r"other-1 & 1 & \textbf{0.875} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_csv_has_every_run_every_figure_and_no_empty_column(folders, tmp_path):
    path = tmp_path / "t.csv"
    write_comparison(path, [RunRecord.read(folder) for folder in folders])
    entries = list(csv.DictReader(path.read_text().splitlines()))
    assert [entry["run"] for entry in entries] == ["one-seed0-1", "one-seed1-1", "other-1"]
    assert [entry["seed"] for entry in entries] == ["0", "1", "0"]
    assert [entry["federation/ari"] for entry in entries] == ["", "", "1.0"]
    assert [float(entry["eval/my_d/frechet_distance"]) for entry in entries] == [9, 7, 8.5]


def test_several_files_at_once_and_endings_that_say_nothing(folders, tmp_path, capsys):
    paths = [tmp_path / name for name in ("t.md", "t.tex", "t.csv", "t.png")]
    assert main(["compare", *map(str, folders), "--output", *map(str, paths)]) == 0
    assert all(path.stat().st_size > 100 for path in paths)
    capsys.readouterr()
    assert main(["compare", str(folders[0]), "--output", str(tmp_path / "t.doc")]) == 2
    assert "t.doc: its ending says what is written" in capsys.readouterr().err
    command = ["compare", str(folders[0]), "--figures", "nope*", "--output", str(tmp_path / "n.md")]
    assert main(command) == 2
    assert "no run has any of nope*; there are round" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "is_more"),
    [
        ("eval/a/label_accuracy", True),
        ("test/a/fid", False),
        ("eval/a/downstream_gain", True),
        ("eval/a/downstream_fpr", False),
        ("federation/ari", True),
        ("held_out/distance", False),
        ("traffic/mbytes", False),
        ("seconds", False),
        # Real data reach these; a loss of a GAN says nothing alone.
        ("eval/a/judge_accuracy", None),
        ("eval/a/frechet_distance_real", None),
        ("eval/a/downstream_accuracy_own", None),
        ("train/generator_loss", None),
        ("round", None),
    ],
)
def test_every_figure_has_its_direction(name, is_more):
    assert find_direction(name) is is_more


@pytest.mark.parametrize(
    ("values", "is_more", "best"),
    [
        ([1.0, 3.0, 2.0], True, [1]),
        ([1.0, 3.0, 2.0], False, [0]),
        ([0.91234, 0.91229, 0.5], True, [0, 1]),  # printed alike
        ([None, 3.0, 2.0], False, [2]),
        ([2.0, 2.0, None], True, []),
        ([None, 2.0], True, []),
        ([], True, []),
    ],
)
def test_the_best_is_chosen_by_what_is_printed(values, is_more, best):
    assert choose_best(values, is_more) == best


def test_lines_compete_within_their_group_only():
    rows = [("a", "x", 1.0), ("b", "x", 2.0), ("c", "y", 9.0), ("d", "y", 8.0)]
    lines = tuple(FigureRow((n,), {"f": Spread(v, 0.0, 1, 1)}, group) for n, group, v in rows)
    assert FigureTable(("m",), lines, {"f": True}).best() == {(1, "f"), (2, "f")}
    assert FigureTable(("m",), lines, {}).best() == set()


def test_spreads_are_those_of_a_sample_and_say_of_how_many():
    assert str(Spread.over([1.0, 2.0, None])) == "1.5 ± 0.71 (2 of 3)"
    assert str(Spread.over([2.0])) == "2"
    assert Spread.over([None, None]) is None


def test_columns_are_called_as_people_read_them():
    assert name_column("eval/digits/nearest_real_ratio") == "digits: nearest real ratio"
    assert name_column("test/digits/downstream_accuracy_own") == "digits: downstream accuracy own"
    assert name_column("federation/ari") == "federation/ari"


def test_runs_without_scores_are_refused_in_one_line(run, tmp_path):
    folder = repeat(run, tmp_path / "a", 0, [1.0])
    with pytest.raises(HuscfError, match="no run has any of the scores; there are round, train/"):
        make_figure_table([RunRecord.read(folder)])
