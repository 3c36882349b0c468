"""Planning is a row of rooms, each of which imports only from those before it."""

import ast

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "huscf" / "planning"
ROOMS = ["costs", "devices", "latency", "problem", "results", "paper", "search"]


def test_the_rooms_are_the_folders():
    assert sorted(ROOMS) == sorted(path.parent.name for path in FOLDER.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_rooms_before_it(room):
    for path in (FOLDER / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                target = (node.module or "").partition(".")[0]
                assert target in ROOMS[: ROOMS.index(room)], f"{path} imports {node.module}"
