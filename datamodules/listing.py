"""Lists the files of a source: a folder per class, or a CSV of path, label, client and patient."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn

from ..errors import DataError
from ..text_files import is_text
from .bad_data import BadInput
from .csv_listing import CSV_SUFFIXES, read_csv
from .paths import find_inside, is_hidden, normalize_name, shorten_path
from .sources import Source, SourceFile, number_first

#: Says by the first bytes of a file whether it is data, whatever its ending.
LooksLikeData = Callable[[bytes], bool]

_SPLITS = ("train", "test")
_SPLIT_NAMES = (*_SPLITS, "training", "testing", "val", "valid", "validation")
_HEAD = 512  # bytes
_NAMED = 5


class FileKinds(NamedTuple):
    """Which files are data.

    Args:
        suffixes: Their endings, in lower case.
        looks_like_data: Judges files of other endings, or of none; what it takes for no data
            either is bad, unless it is text. None passes over other endings.
    """

    suffixes: tuple[str, ...]
    looks_like_data: LooksLikeData | None = None


def list_source(
    name: str,
    root: Path,
    path: str,
    kinds: FileKinds,
    classes: Sequence[str] = (),
    label_from: str | None = None,
) -> Source:
    """List a folder with one subfolder per class, or a CSV file.

    A folder may have `train` and `test` subfolders (in any case) that hold the classes;
    others beside the two are not used, which a warning says. Hidden and system folders and files
    are no data at any level; a warning names those with data in them. For CSV files see read_csv.

    Args:
        name: The domain's name.
        root: Data folder; nothing outside it is listed.
        path: Folder or CSV, relative to root.
        kinds: Which files of a folder are data.
        classes: Allowed classes in order of label; empty takes those that are found, sorted.
        label_from: Of a CSV, the column or finding that is the class; None is the column label.

    Raises:
        DataError: Where there is no such folder or file below root, or it holds nothing, or
            splits other than train and test.
    """
    place = find_inside(root, path)
    passed_over: list[str] = []
    if place.is_dir():
        listed, bad = _list_folder(place, kinds, root.resolve(), passed_over)
    elif place.suffix.lower() in CSV_SUFFIXES and place.is_file():
        listed, bad = read_csv(place, label_from)
    else:
        raise DataError(f"{name}: no folder or CSV file {place}: set root or HUSCF_DATA")
    allowed = [normalize_name(each) for each in classes]
    files = list(_check_files(listed, root.resolve(), allowed, bad))
    if not files and not bad:
        lacking = f"class folders with {', '.join(kinds.suffixes)}" if place.is_dir() else "rows"
        raise DataError(f"{name}: {place} has no {lacking}")
    if passed_over:
        shown = ", ".join(sorted(passed_over)[:_NAMED]) + ", ..." * (len(passed_over) > _NAMED)
        rank_zero_warn(
            f"{name}: {len(passed_over)} files are passed over, since they are hidden, a "
            f"system's, or text: {shown}",
            stacklevel=5,
        )
    names = tuple(allowed) or tuple(sorted({file.class_name for file in files}, key=number_first))
    return Source(name, root.resolve(), files, names, bad)


Listing = tuple[list[SourceFile], list[BadInput]]


def _list_folder(folder: Path, kinds: FileKinds, root: Path, passed_over: list[str]) -> Listing:
    files: list[SourceFile] = []
    bad: list[BadInput] = []
    class_folders = _list_class_folders(folder, kinds.suffixes)
    for is_test, class_folder in class_folders:
        found = _find_data(class_folder, kinds, root, bad, passed_over)
        if not found:
            bad.append(BadInput("class folder without files", shorten_path(class_folder, root)))
        name = normalize_name(class_folder.name)
        files += [SourceFile(p, name, "", is_test) for p in found]
    for above in dict.fromkeys([folder, *(place.parent for _, place in class_folders)]):
        names = [shorten_path(p, root) for p in _list_own_data(above, kinds)]
        if names and not class_folders:
            raise DataError(
                f"{folder} has {len(names)} files ({names[0]}, ...), but no class folders: give "
                "every class a folder, or name a CSV of path and label"
            )
        bad += [BadInput("file in no class folder", name) for name in names]
    return files, bad


def _find_data(
    folder: Path, kinds: FileKinds, root: Path, bad: list[BadInput], passed_over: list[str]
) -> list[Path]:
    """Return the data below a folder in order of path; tell of all else that a user put there."""
    found: list[Path] = []
    for path, hidden in _walk(folder, root, bad):
        name = shorten_path(path, root)
        if hidden:
            if path.name.lower().endswith(kinds.suffixes) and path.is_file():
                passed_over.append(name)
        elif path.name.lower().endswith(kinds.suffixes):
            found.append(path)
        elif kinds.looks_like_data is not None:
            head = _read_head(path)
            if kinds.looks_like_data(head):
                found.append(path)
            elif is_text(head):
                passed_over.append(name)
            else:
                ending = path.suffix if path.suffix and not path.suffix[1:].isdecimal() else ""
                bad.append(
                    BadInput(
                        f"file {f'with {ending}' if ending else 'without ending'} "
                        "that cannot be read",
                        name,
                    )
                )
    return sorted(found)


def _walk(folder: Path, root: Path, bad: list[BadInput]) -> Iterator[tuple[Path, bool]]:
    """Yield every file below a folder, and whether it is hidden or in a hidden folder."""

    def report(error: OSError) -> None:
        name = shorten_path(Path(error.filename), root)
        bad.append(BadInput(f"folder that cannot be read ({error.strerror})", name))

    for place, subfolders, names in os.walk(folder, onerror=report):
        here = Path(place)
        hidden = any(is_hidden(part) for part in here.relative_to(folder).parts)
        for name in subfolders:
            if (here / name).is_symlink() and not (hidden or is_hidden(name)):
                reason = "link to a folder, which is not followed"
                bad.append(BadInput(reason, shorten_path(here / name, root)))
        for name in names:
            yield here / name, hidden or is_hidden(name)


def _read_head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b"\0"  # neither data nor text


def _list_own_data(folder: Path, kinds: FileKinds) -> list[Path]:
    """Return the data that lies in a folder itself."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.name.lower().endswith(kinds.suffixes) and not is_hidden(p.name) and p.is_file()
    )


def _list_class_folders(folder: Path, suffixes: tuple[str, ...]) -> list[tuple[bool, Path]]:
    """Return whether it is held out, and where it is, of every class folder."""
    subfolders = _list_subfolders(folder)
    split = {name: [p for p in subfolders if p.name.lower() == name] for name in _SPLITS}
    if not all(split.values()):
        _refuse_other_splits(folder, subfolders, suffixes)
        return [(False, class_folder) for class_folder in subfolders]
    unused = [p.name for p in subfolders if p.name.lower() not in _SPLITS]
    if unused:
        names = ", ".join(unused)
        rank_zero_warn(f"{folder}: not used beside train and test: {names}", stacklevel=5)
    return [
        (name == "test", class_folder)
        for name in _SPLITS
        for half in split[name]
        for class_folder in _list_subfolders(half)
    ]


def _refuse_other_splits(folder: Path, subfolders: list[Path], suffixes: tuple[str, ...]) -> None:
    """Raise a DataError where halves of the data would be taken for classes."""
    halves = [p for p in subfolders if p.name.lower() in _SPLIT_NAMES]
    holds_classes = any(
        _list_subfolders(half)
        and not any(p.name.lower().endswith(suffixes) for p in half.iterdir())
        for half in halves
    )
    if holds_classes or 0 < len(halves) == len(subfolders):
        raise DataError(
            f"{folder} has {', '.join(p.name for p in halves)}, which are no classes: name the "
            "halves train and test, with the class folders in them, or keep only class folders"
        )


def _list_subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


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
