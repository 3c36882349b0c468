"""Nested plain values, such as a configuration: as one level of dotted keys, as YAML."""

import re
import sys
from collections.abc import Mapping
from typing import Any

import yaml


def flatten(values: object, prefix: str = "") -> dict[str, object]:
    """Return the leaves by their dotted keys; an empty mapping is a leaf.

    Args:
        values: Mappings of mappings; everything else is a leaf.
        prefix: Key of the whole.
    """
    if not isinstance(values, Mapping) or not values:
        return {prefix: values}
    return {
        key: value
        for name, nested in values.items()
        for key, value in flatten(nested, f"{prefix}.{name}" if prefix else str(name)).items()
    }


class _Dumper(yaml.SafeDumper):
    """Puts text such as 1e3 in quotes: PyYAML reads it as text, jsonargparse as a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def to_yaml(values: object, **layout: Any) -> str:
    """Return plain values as YAML that a configuration's reader takes for the same values.

    Args:
        values: Plain ones; keys stay in their order.
        layout: Options of yaml.dump.
    """
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, **layout)


def write_line(values: object) -> str:
    """Return values as one line of YAML, keys in their order and of their types.

    JSON would turn numbers that are keys into text; sorted, odds would be drawn from otherwise.
    """
    return to_yaml(values, default_flow_style=True, width=sys.maxsize).strip()
