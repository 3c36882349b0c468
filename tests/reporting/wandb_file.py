"""Reads what W&B logged offline; its own package has no reader in Python."""

import json
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK = 32768
_FIRST_HEADER = 7
_FULL, _LAST = 1, 4


def read_records(path: Path):
    """Yield the records of a .wandb file: LevelDB's log format with W&B's protobuf inside."""
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    position, parts = _FIRST_HEADER, []
    while position + 7 <= len(content):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def to_dict(items):
    """Values of a record's items by key."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
