"""Nested plain values, such as a configuration: as one level of dotted keys, as one line."""

import sys
from collections.abc import Mapping

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


def write_line(values: object) -> str:
    """Return values as one line of YAML, keys in their order and of their types.

    JSON would turn numbers that are keys into text; sorted, odds would be drawn from otherwise.
    """
    text = yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    return text.strip()
