"""Nested plain values, such as a configuration, as one level of dotted keys."""

from collections.abc import Mapping


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
