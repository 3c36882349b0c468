"""Reads a list of files and labels as Excel, pandas and scripts write it."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from ..errors import DataError
from ..text_files import decode_text
from .bad_data import BadInput
from .paths import FileFinder, is_leftover, normalize_name
from .sources import SourceFile

CSV_SUFFIXES = (".csv", ".tsv", ".txt")

Row = dict[str, str]

_DELIMITERS = (",", ";", "\t", "|")
_LONGEST_NAME = 255  # bytes
_SPLITS = ("train", "test")
_UNUSED_SPLITS = ("val", "valid", "validation")
_FINDINGS = re.compile(r"[|;,]")
_DECIMAL = re.compile(r"(-?\d+)[.,]0*")
_EXTRA = "\0extra"


def read_csv(path: Path, label_from: str | None = None) -> tuple[list[SourceFile], list[BadInput]]:
    """List the files that a CSV names.

    Columns, in any case and order: path (relative to the CSV's folder) and label, and if wanted
    client, patient and split (train or test; val beside the two is not used, which a warning
    says). Separated by comma, semicolon, tab or |, in UTF-8, UTF-16 or Windows-1252. Labels that
    are all whole numbers are read as such (1.0 is 1); empty rows are passed over.

    Args:
        path: The CSV.
        label_from: Another column than label, or one finding of a label that lists several
            (A|B): then the classes are "no <finding>" and "<finding>".

    Raises:
        DataError: Where the file is no CSV, lacks columns, or has several labels a row.
    """
    rows = _read_rows(path, label_from)
    has_test = any(row.get("split", "").lower() == "test" for _, row in rows)
    finder, files, bad, unused = FileFinder(path.parent), [], [], 0
    for number, row in rows:
        split = row.get("split", "train").lower()
        if has_test and split in _UNUSED_SPLITS:
            unused += 1
        elif fault := _find_row_fault(row):
            bad.append(BadInput(fault, f"line {number}"))
        else:
            place = finder.find(row["path"])
            patient = row.get("patient", "")
            files.append(
                SourceFile(place, row["label"], row.get("client", ""), split == "test", patient)
            )
    if unused:
        rank_zero_warn(f"{path}: {unused} rows are of split val, which is not used", stacklevel=6)
    return files, bad


def _read_rows(path: Path, label_from: str | None) -> list[tuple[int, Row]]:
    """Return number and content of every row that is not empty."""
    raw = path.read_bytes()
    if raw.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is an Excel workbook: save it as CSV")
    try:
        text = decode_text(raw)
        lines = list(io.StringIO(text, newline=""))
        start = 1 if lines and lines[0].lower().startswith("sep=") else 0
        delimiter, columns = _split_header(lines[start:])
        reader = csv.DictReader(
            lines[start + 1 :], columns, _EXTRA, delimiter=delimiter, skipinitialspace=True
        )
        found = [(reader.line_num + start + 1, _clean(row)) for row in reader if any(_values(row))]
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    _check_columns(path, columns, label_from)
    _choose_labels(path, [row for _, row in found], columns, label_from)
    return found


def _split_header(lines: Sequence[str]) -> tuple[str, list[str]]:
    """Return the delimiter by which the first line has most columns that are known, and these."""
    best = (-1, ",", [""])
    for delimiter in _DELIMITERS:
        cells = next(csv.reader(lines[:1], delimiter=delimiter, skipinitialspace=True), [""])
        columns = [normalize_name(cell.strip()).lower() for cell in cells]
        known = len({"path", "label"} & set(columns)) * 1000 + len(columns)
        if known > best[0]:
            best = (known, delimiter, columns)
    return best[1], best[2]


def _values(row: dict[str, str | None]) -> list[str]:
    return [(value or "").strip() for name, value in row.items() if name != _EXTRA]


def _clean(row: dict[str, str | None]) -> Row:
    names = [name for name in row if name != _EXTRA]
    cells = dict(zip(names, map(normalize_name, _values(row)), strict=True))
    # A path keeps its letters as they are: they are the file's name.
    cells["path"] = (row.get("path") or "").strip()
    if any((cell or "").strip() for cell in row.get(_EXTRA) or ()):
        cells[_EXTRA] = "more"
    return cells


def _check_columns(path: Path, columns: list[str], label_from: str | None) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{path}: has two columns {twice[0]}")
    needed = {"path"} if label_from and label_from.lower() in columns else {"path", "label"}
    if not needed <= set(columns):
        raise DataError(
            f"{path}: needs the columns path and label, has {sorted(columns)}; label_from names "
            "another column for the label"
        )


def _choose_labels(path: Path, rows: list[Row], columns: list[str], label_from: str | None) -> None:
    """Write the class of every row into its label."""
    column = normalize_name(label_from).lower() if label_from else "label"
    finding = None if column in columns else normalize_name(label_from or "")
    source = column if finding is None else "label"
    values = [row.get(source, "") for row in rows]
    parts = [[part.strip() for part in _FINDINGS.split(value)] for value in values]
    if finding is None:
        _refuse_several(path, values, parts)
        labels = _drop_decimals(values)
    else:
        known = sorted({part for each in parts for part in each if part})
        if finding not in known:
            raise DataError(
                f"{path}: label_from is {finding}, which is neither a column ({', '.join(columns)})"
                f" nor a label ({', '.join(known[:10])})"
            )
        labels = [
            (finding if finding in each else f"no {finding}") if value else ""
            for each, value in zip(parts, values, strict=True)
        ]
    for row, label in zip(rows, labels, strict=True):
        row["label"] = label


def _refuse_several(path: Path, values: Sequence[str], parts: Sequence[list[str]]) -> None:
    """Raise a DataError where labels are lists of others."""
    single = {each[0] for each in parts if len(each) == 1}
    for value, each in zip(values, parts, strict=True):
        if len(each) > 1 and ("|" in value or all(part in single for part in each)):
            raise DataError(
                f"{path}: some rows have several labels ({value}), a sample has one: choose with "
                f"label_from one of them against the rest (label_from: {each[0]}), or another "
                "column"
            )


def _drop_decimals(labels: list[str]) -> list[str]:
    """Return 1 for 1.0 where all labels are whole numbers: so programs write them beside gaps."""
    matches = [_DECIMAL.fullmatch(label) or re.fullmatch(r"(-?\d+)", label) for label in labels]
    if not all(match or not label for match, label in zip(matches, labels, strict=True)):
        return labels
    return [match.group(1) if match else "" for match in matches]


def _find_row_fault(row: Row) -> str:
    if not row["path"] or not row["label"]:
        return "row without path or label"
    for column in ("client", "patient"):
        if row.get(column) == "":
            return f"row without {column}"
    if row.get("split", "train").lower() not in _SPLITS:
        return "split is neither train nor test"
    if _EXTRA in row:
        return "row with more values than columns"
    parts = Path(row["path"].replace("\\", "/")).parts
    if any(len(part.encode()) > _LONGEST_NAME for part in parts) or "\0" in row["path"]:
        return "path that no file can have"
    return "file that a system or tool left" if any(map(is_leftover, parts)) else ""
