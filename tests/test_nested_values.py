"""Plain values as YAML: what is written is what a configuration's reader finds."""

from typing import Any

import pytest
from jsonargparse import ArgumentParser

from huscf.nested_values import to_yaml, write_line

TEXTS = [
    *("1e3", "1E5", "1e-3", "1e+3", "-1e3", "1.5e3", "1.e3", ".5e3", "1_0e3", "1e", "e3", "1e3a"),
    *("no", "null", "~", "true", "1", "1.5", "0x10", "2020-01-01", "12:30", "", " x ", "a: b"),
    *("# a", "[a]", "ö", "- a", "%a", "a\nb"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("write", [write_line, to_yaml])
def test_text_and_keys_come_back_as_they_were(text, write):
    values = {"value": text, "in a list": [text, 1], "as a key": {text: 2.5}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--given", type=Any)
    written = write({"given": values})
    assert parser.parse_string(written).given == values


def test_numbers_stay_numbers_and_keys_in_their_order():
    values = {"b": {2: 0.5, 0: 0.25}, "a": [1e-8, 1.0, 10**12, -3]}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--given", type=Any)
    found = parser.parse_string(write_line({"given": values})).given
    assert found == values and list(found["b"]) == [2, 0] and list(found) == ["b", "a"]
