"""How large the picture in a compressed stream is, by its header, before anything is decoded."""

_FRAME_MARKS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, and JPEG-LS'
_START_JPEG, _START_JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"


def find_size(stream: bytes) -> tuple[int, int] | None:
    """Return height and width that a JPEG, JPEG-LS or JPEG 2000 stream declares, else None.

    Source: ITU-T T.81, B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    if stream.startswith(_START_JPEG_2000):
        right, lower, left, upper = (_number(stream[at : at + 4]) for at in (8, 12, 16, 20))
        return lower - upper, right - left
    if not stream.startswith(_START_JPEG):
        return None
    place = 2
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        mark = stream[place + 1]
        if mark in _FRAME_MARKS:
            return _number(stream[place + 5 : place + 7]), _number(stream[place + 7 : place + 9])
        # Fill bytes may stand before a mark; they have no length.
        place += 1 if mark == 0xFF else 2 + _number(stream[place + 2 : place + 4])
    return None


def _number(part: bytes) -> int:
    return int.from_bytes(part, "big")
