"""Who may import whom: plain torch below, adapters above, and only lines above one's own."""

import ast

import pytest

from tests.conftest import REPOSITORY

#: From the bottom to the top; each imports only from those before it.
LAYERS = [
    "errors",
    "randomness",
    "colours",
    "activity",
    "nested_values",
    "cache_folder",
    "text_files",
    "user_paths",
    "named_configs",
    "whole_files",
    "spill",
    "bounded_files",
    "provenance",
    "run_lock",
    "signals",
    "trust",
    "models",
    "split",
    "wire",
    "metrics",
    "methods",
    "planning",
    "federation",
    "secure",
    "parties",
    "engines",
    "training",
    "checkpoint_parts",
    "checkpoint_io",
    "resuming",
    "saved_config",
    "renamed_keys",
    "parser_messages",
    "one_line_parser",
    "datamodules",
    "sampling",
    "reporting",
    "callbacks",
    "privacy",
    "commands",
    "check_data",
    "leakage",
    "init",
    "completion",
    "deploy",
    "cli",
    "bench",
    "__main__",
]
PLAIN = (
    "errors",
    "activity",
    "randomness",
    "nested_values",
    "models",
    "split",
    "wire",
    "metrics",
    "methods",
    "planning",
    "federation",
    "secure",
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


#: What a package knows nothing of, though it could import it.
UNKNOWN = {
    "methods": ("torch.distributed", "threading", "huscf.planning", "huscf.federation"),
    "parties": ("torch.distributed", "threading", "huscf.planning"),
    "wire": ("torch.distributed", "threading", "huscf.split"),
    "engines": ("lightning", "huscf.planning", "huscf.metrics"),
}


@pytest.mark.parametrize("layer", UNKNOWN)
def test_packages_stay_ignorant(layer):
    for path in files(layer):
        for name in imports(path, layer):
            assert not f"{name}.".startswith(tuple(f"{n}." for n in UNKNOWN[layer])), path


#: Each with its use of the layers above: a method knows no engine, an engine no callback.
ABOVE = {
    "methods": ("parties", "engines", "training", "callbacks"),
    "engines": ("training", "reporting", "callbacks"),
}


@pytest.mark.parametrize("layer", ABOVE)
def test_a_method_knows_no_engine_and_an_engine_no_callback(layer):
    assert all(LAYERS.index(above) > LAYERS.index(layer) for above in ABOVE[layer])
    imported = {name for path in files(layer) for name in imports(path, layer)}
    assert not imported & {f"huscf.{above}" for above in ABOVE[layer]}


def test_what_only_speed_needs_is_imported_in_one_place():
    """`engines/stacked`, and `engines/ranked`, which shares it out, can be deleted together."""
    rooms = {folder("engines") / "stacked", folder("engines") / "ranked"}
    users = [
        path
        for layer in LAYERS
        for path in files(layer)
        if not rooms & set(path.parents) and any("stacked" in line for line in import_lines(path))
    ]
    assert users == [folder("engines") / "__init__.py"]


def import_lines(path):
    """The modules and names of a file's imports, one text for each import."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield ".".join([getattr(node, "module", None) or "", *(a.name for a in node.names)])


@pytest.mark.parametrize("layer", LAYERS[:-1])
def test_imports_go_only_to_lower_layers(layer):
    allowed = LAYERS[: LAYERS.index(layer)]
    for path in files(layer):
        for name in imports(path, layer):
            if name.startswith("huscf."):
                target = name.split(".")[1]
                assert target in allowed or target == layer, f"{path} imports {name}"


def test_private_lightning_stands_in_one_file():
    compat = folder("training") / "lightning_compat.py"
    for layer in LAYERS:
        for path in files(layer):
            if path == compat:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
                    assert not any(a.name.startswith("_") for a in node.names), path
