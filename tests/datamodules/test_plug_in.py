"""The worked example of docs/datamodules.md, exactly as printed there."""

import ast
import importlib
import warnings

import pytest
import yaml
from jsonargparse import ArgumentParser

from huscf.datamodules import FederatedDataModule
from tests.conftest import REPOSITORY

CONFIGS = [
    path
    for path in sorted((REPOSITORY / "configs").glob("**/*.yaml"))
    if "class_path" in yaml.safe_load(path.read_text()).get("data", {})  # overlays name no class
]
MODULES = sorted((REPOSITORY / "datamodules").glob("*.py"))


def parse_data(section):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(FederatedDataModule, "data")
    config = parser.parse_object({"data": section})
    with warnings.catch_warnings():
        # LightningCLI uses this method, too; its successor is missing in older versions.
        warnings.simplefilter("ignore", DeprecationWarning)
        return parser.instantiate_classes(config).data


def test_the_example_is_short(example):
    assert len((example / "stripes.py").read_text().splitlines()) < 40


def test_the_example_makes_batches_from_yaml(example):
    data = parse_data(yaml.safe_load((example / "stripes.yaml").read_text())["data"])
    assert isinstance(data, importlib.import_module("stripes").StripesDataModule)
    assert data.noise == 0.2 and data.sample_shape.num_classes == 4
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch) == list(range(6)) and batch[0].samples.shape == (16, 1, 16, 16)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_data_of_every_config_parses(path):
    section = yaml.safe_load(path.read_text())["data"]
    data = parse_data(section)
    for name, value in section["init_args"].items():
        if isinstance(value, int | str) or (isinstance(value, list) and name != "class_names"):
            assert getattr(data, name) == value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_readers_are_imported_where_they_are_used(path):
    """Start-up stays quick: only functions import what reads one kind of file."""
    tree = ast.parse(path.read_text())
    names = {
        alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names
    }
    names |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    heavy = {"medmnist", "torchvision", "torchaudio", "soundfile", "pydicom", "sklearn", "nibabel"}
    assert not heavy & {name.split(".")[0] for name in names}
