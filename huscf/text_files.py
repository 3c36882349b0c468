"""Text as it comes: Unicode with or without a mark, or the code page of Windows."""

import codecs
from contextlib import suppress
from pathlib import Path

MAX_TEXT_BYTES = 64 * 2**20

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(raw: bytes) -> str:
    """Return the text of a file's bytes.

    Unicode is recognised by its mark or, as UTF-16, by its zero bytes; what is no UTF-8 then is
    read as Windows-1252, of which Latin-1 is the printable part.

    Raises:
        UnicodeError: Where the bytes are no text.
    """
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw.decode(encoding)
    start = raw[:400]
    if b"\0" in start:
        is_little = start[1::2].count(0) >= start[0::2].count(0)
        raw = raw.decode("utf-16-le" if is_little else "utf-16-be").encode()
    if not is_text(raw[:400]):
        raise UnicodeError("binary data, no text")
    for encoding in ("utf-8", "cp1252"):
        with suppress(UnicodeDecodeError):
            return raw.decode(encoding)
    return raw.decode("latin-1")


def read_text(path: Path) -> str:
    """Return the text of a file that people write; see decode_text.

    Raises:
        OSError: Where it cannot be read.
        UnicodeError: Where it is no text.
        ValueError: Where it is larger than any such file, as a device without end is.
    """
    with path.open("rb") as file:
        raw = file.read(MAX_TEXT_BYTES + 1)
    if len(raw) > MAX_TEXT_BYTES:
        raise ValueError(f"larger than {MAX_TEXT_BYTES >> 20} MiB")
    return decode_text(raw)


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are those of text."""
    if head.startswith(tuple(mark for mark, _ in _MARKS)):
        return True
    return not set(head) & set(range(32)) - set(b"\t\n\r\f\v\x1a\x1b")
