"""Who may import whom: plain torch below, adapters above, and only lines above one's own."""

import ast

import pytest

from tests.conftest import REPOSITORY

#: From the bottom to the top; each imports only from those before it.
LAYERS = [
    "errors",
    "randomness",
    "nested_values",
    "cache_folder",
    "trust",
    "models",
    "split",
    "planning",
    "federation",
    "metrics",
    "modules",
    "loops",
    "checkpoint_parts",
    "checkpoint_io",
    "saved_config",
    "one_line_parser",
    "datamodules",
    "sampling",
    "reporting",
    "callbacks",
    "commands",
    "cli",
    "__main__",
]
PLAIN = (
    "errors",
    "randomness",
    "nested_values",
    "models",
    "split",
    "planning",
    "federation",
    "metrics",
)


def folder(layer):
    return REPOSITORY / ("" if layer in ("callbacks", "datamodules") else "huscf") / layer


def files(layer):
    path = folder(layer)
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path, layer):
    """Names of the imported modules; relative ones as "huscf.<layer>"."""
    depth = len(path.relative_to(folder(layer)).parts) if folder(layer).is_dir() else 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == depth + 1:
                names = [node.module] if node.module else [a.name for a in node.names]
                yield from (f"huscf.{name}" for name in names)
            elif node.level == 0:
                yield node.module or ""


@pytest.mark.parametrize("layer", PLAIN)
def test_plain_packages_import_no_lightning(layer):
    for path in files(layer):
        for name in imports(path, layer):
            assert not name.startswith(("lightning", "pytorch_lightning")), path


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_imports_go_only_to_lower_layers(layer):
    allowed = LAYERS[: LAYERS.index(layer)]
    for path in files(layer):
        for name in imports(path, layer):
            if name.startswith("huscf."):
                target = name.split(".")[1]
                assert target in allowed or target == layer, f"{path} imports {name}"


def test_private_lightning_stands_in_one_file():
    compat = folder("loops") / "lightning_compat.py"
    for layer in LAYERS:
        for path in files(layer):
            if path == compat:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
                    assert not any(a.name.startswith("_") for a in node.names), path
