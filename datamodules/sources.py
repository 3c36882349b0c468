"""Lists the files of a source: a folder per class, or a CSV of path, label and client."""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError
from .bad_data import BadInput


class SourceFile(NamedTuple):
    """One file, which holds one sample.

    Args:
        path: Where it is; below the data folder.
        class_name: Its class.
        key: Natural client key (hospital, speaker), or "" for none.
        is_test: Whether it is held out.
    """

    path: Path
    class_name: str
    key: str = ""
    is_test: bool = False


@dataclass(frozen=True)
class Source:
    """The files of one domain.

    Args:
        name: The domain's name.
        folder: The data folder; names in messages are relative to it.
        files: All usable files.
        class_names: Classes in order of label.
        bad: What is wrong with the listing; these files are not among files.
    """

    name: str
    folder: Path
    files: list[SourceFile]
    class_names: tuple[str, ...]
    bad: list[BadInput] = field(default_factory=list)


def list_source(
    name: str, root: Path, path: str, suffixes: Sequence[str], classes: Sequence[str]
) -> Source:
    """List a folder with one subfolder per class, or a CSV file.

    A folder may have `train` and `test` subfolders (in any case) that hold the classes;
    others beside the two are not used, which a warning says. A CSV has the columns path
    (relative to its own folder) and label, and may have client and split (train or test, in
    any case).

    Args:
        name: The domain's name.
        root: Data folder; nothing outside it is listed.
        path: Folder or CSV, relative to root.
        suffixes: Endings of the files to list in a folder, in lower case; others are passed over.
        classes: Allowed classes in order of label; empty takes those that are found, sorted.

    Raises:
        DataError: Where there is no such folder or file below root, or it holds nothing, or
            splits other than train and test.
    """
    place = find_inside(root, path)
    if place.is_dir():
        listed, bad = _list_folder(place, suffixes, root.resolve())
    elif place.suffix.lower() == ".csv" and place.is_file():
        listed, bad = _read_csv(place)
    else:
        raise DataError(f"{name}: no folder or CSV file {place}: set root or HUSCF_DATA")
    files = list(_check_files(listed, root.resolve(), classes, bad))
    if not files and not bad:
        lacking = f"class folders with {', '.join(suffixes)}" if place.is_dir() else "rows"
        raise DataError(f"{name}: {place} has no {lacking}")
    names = tuple(classes) or tuple(sorted({file.class_name for file in files}, key=_number_first))
    return Source(name, root.resolve(), files, names, bad)


def check_numbering(sources: Sequence[Source]) -> None:
    """Raise a DataError where a class has one label in one source and another in the next."""
    first: dict[str, tuple[int, str]] = {}
    for source in sources:
        for label, name in enumerate(source.class_names):
            known, owner = first.setdefault(name, (label, source.name))
            if known != label:
                every = dict.fromkeys(n for each in sources for n in each.class_names)
                raise DataError(
                    f"class {name} is label {known} in {owner} and {label} in {source.name}, which "
                    "have different classes: number them with "
                    f"classes: {sorted(every, key=_number_first)}"
                )


def hold_out(files: Sequence[SourceFile], test_fraction: float) -> list[SourceFile]:
    """Hold out this part of each class, evenly spread over its files, and at least one of two.

    Returns the files as they are where some are held out already; training files come first.
    """
    if not any(file.is_test for file in files):
        counts = Counter(file.class_name for file in files)
        rank: Counter[str] = Counter()
        marked = []
        for file in files:
            name = file.class_name
            rank[name] += 1
            before, now = (int(round(n * test_fraction, 9)) for n in (rank[name] - 1, rank[name]))
            is_only = rank[name] == counts[name] > 1 and now == 0
            marked.append(file._replace(is_test=now > before or is_only))
        files = marked
    return sorted(files, key=lambda file: file.is_test)


def drop_lonely_keys(source: Source) -> Source:
    """Take out client keys with a single training sample: no client can train on one."""
    counts = Counter(file.key for file in source.files if file.key and not file.is_test)
    lonely = {key for key, count in counts.items() if count < 2}
    if not lonely:
        return source
    bad = [BadInput("client key with one training sample", key) for key in sorted(lonely)]
    files = [file for file in source.files if file.is_test or file.key not in lonely]
    return replace(source, files=files, bad=source.bad + bad)


def find_inside(folder: Path, path: str | Path) -> Path:
    """Return folder / path with links followed.

    Raises:
        DataError: Where that lies outside the folder.
    """
    resolved = (folder / path).resolve()
    if not resolved.is_relative_to(folder.resolve()):
        raise DataError(f"{path} lies outside the data folder {folder}")
    return resolved


def shorten_path(path: Path, folder: Path) -> str:
    """Return the path relative to the folder where it lies below it."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


Listing = tuple[list[SourceFile], list[BadInput]]

_LONGEST_NAME = 255  # bytes
_SPLITS = ("train", "test")
_SPLIT_NAMES = (*_SPLITS, "training", "testing", "val", "valid", "validation")


def _list_folder(folder: Path, suffixes: Sequence[str], root: Path) -> Listing:
    files: list[SourceFile] = []
    bad: list[BadInput] = []
    for is_test, class_folder in _list_class_folders(folder, suffixes):
        found = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in suffixes)
        if not found:
            name = shorten_path(class_folder, root)
            bad.append(BadInput("class folder without files", name))
        files += [SourceFile(p, class_folder.name, "", is_test) for p in found]
    return files, bad


def _list_class_folders(folder: Path, suffixes: Sequence[str]) -> list[tuple[bool, Path]]:
    """Return whether it is held out, and where it is, of every class folder."""
    subfolders = _list_subfolders(folder)
    split = {name: [p for p in subfolders if p.name.lower() == name] for name in _SPLITS}
    if not all(split.values()):
        _refuse_other_splits(folder, subfolders, suffixes)
        return [(False, class_folder) for class_folder in subfolders]
    unused = [p.name for p in subfolders if p.name.lower() not in _SPLITS]
    if unused:
        names = ", ".join(unused)
        warnings.warn(f"{folder}: not used beside train and test: {names}", stacklevel=2)
    return [
        (name == "test", class_folder)
        for name in _SPLITS
        for half in split[name]
        for class_folder in _list_subfolders(half)
    ]


def _refuse_other_splits(folder: Path, subfolders: list[Path], suffixes: Sequence[str]) -> None:
    """Raise a DataError where halves of the data would be taken for classes."""
    halves = [p for p in subfolders if p.name.lower() in _SPLIT_NAMES]
    holds_classes = any(
        _list_subfolders(half) and not any(p.suffix.lower() in suffixes for p in half.iterdir())
        for half in halves
    )
    if holds_classes or 0 < len(halves) == len(subfolders):
        raise DataError(
            f"{folder} has {', '.join(p.name for p in halves)}, which are no classes: name the "
            "halves train and test, with the class folders in them, or keep only class folders"
        )


def _list_subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_csv(path: Path) -> Listing:
    files: list[SourceFile] = []
    bad: list[BadInput] = []
    for number, row in enumerate(_read_rows(path), start=2):
        fault = _find_row_fault(row)
        if fault:
            bad.append(BadInput(fault, f"line {number}"))
            continue
        is_test = row.get("split", "").lower() == "test"
        place = path.parent / row["path"]
        files.append(SourceFile(place, row["label"], row.get("client", ""), is_test))
    return files, bad


def _read_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            rows = [{name: (row[name] or "").strip() for name in columns} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    if not {"path", "label"} <= set(columns):
        raise DataError(f"{path}: needs the columns path and label, has {sorted(columns)}")
    return rows


def _find_row_fault(row: dict[str, str]) -> str:
    if not row["path"] or not row["label"]:
        return "row without path or label"
    if row.get("client") == "":
        return "row without client"
    if row.get("split", "train").lower() not in ("train", "test"):
        return "split is neither train nor test"
    is_too_long = any(len(part.encode()) > _LONGEST_NAME for part in Path(row["path"]).parts)
    return "path that no file can have" if is_too_long or "\0" in row["path"] else ""


def _check_files(
    listed: Sequence[SourceFile], folder: Path, classes: Sequence[str], bad: list[BadInput]
) -> Iterator[SourceFile]:
    """Yield the usable files, once each; add the others to bad."""
    seen: set[Path] = set()
    for file in listed:
        resolved = file.path.resolve()
        name = shorten_path(file.path, folder)
        if not resolved.is_relative_to(folder):
            bad.append(BadInput("path outside the data folder", name))
        elif resolved in seen:
            bad.append(BadInput("duplicate path", name))
        elif classes and file.class_name not in classes:
            bad.append(BadInput(f"label outside the classes {list(classes)}", name))
        else:
            yield file
        seen.add(resolved)


def _number_first(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() else (1 << 62, name)
