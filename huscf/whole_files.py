"""Files that are written whole or not at all, and never through a link."""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: First characters with which a spreadsheet takes a cell for a formula.
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the path of a new file beside another, which it then replaces at once.

    A link in the way is replaced, not followed. Where writing fails, the new file is removed, the
    other stays as it was, and the error names it.

    Args:
        path: The file to write.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise


def link_file(path: Path, name: Path) -> None:
    """Give a file a second name, which replaces what has it; a copy where there are no links."""
    with replacing(name) as partial:
        try:
            os.link(path, partial)
        except OSError:
            partial.unlink(missing_ok=True)
            shutil.copyfile(path, partial)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as partial, partial.open("xb") as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all; line ends stay as they are."""
    write_bytes(path, text.encode())


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV, replacing the file at once; no name in it is taken for a formula."""
    with replacing(path) as partial, partial.open("x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([escape_cell(column) for column in columns])
        writer.writerows([[escape_cell(row.get(c, "")) for c in columns] for row in rows])


def escape_cell(value: object) -> object:
    """Return the value of a CSV cell so that no spreadsheet takes a name for a formula.

    Numbers, in text too, stay as they are; other text that begins like a formula gets an
    apostrophe before it, which spreadsheets do not show; `unescape_cell` takes it away.
    """
    if not isinstance(value, str) or not value.startswith((*FORMULA_SIGNS, "'")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def unescape_cell(text: str) -> str:
    """Return what `escape_cell` was given."""
    return text[1:] if text.startswith("'") else text
