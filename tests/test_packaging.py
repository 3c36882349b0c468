"""What is installed is what stands in the repository."""

import configparser
import importlib
import re
from importlib import metadata

import huscf
from tests.conftest import REPOSITORY


def setup():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def packages_on_disk():
    files = (REPOSITORY / "huscf").rglob("__init__.py")
    top = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in files}
    moved = {f"huscf.{n}" for n in ("callbacks", "datamodules")}
    return top | moved


def test_the_package_list_equals_the_folders_on_disk():
    listed = set(setup()["options"]["packages"].split())
    assert listed == packages_on_disk()


def test_every_package_imports_under_its_installed_name():
    for name in packages_on_disk():
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public in getattr(module, "__all__", []):
            assert getattr(module, public) is not None


def test_a_stray_import_of_the_moved_folders_fails_loudly():
    for name in ("callbacks", "datamodules"):
        text = "".join(p.read_text() for p in (REPOSITORY / name).glob("*.py"))
        assert not re.search(r"^\s*(from|import) huscf", text, re.M), name


def test_malicious_lightning_releases_are_excluded_and_test_tools_are_extras():
    requirements = setup()["options"]["install_requires"]
    assert re.search(r"lightning >=2\.6\.4", requirements)
    assert not re.search(r"pytest|hypothesis|mypy|ruff", requirements)
    for line in requirements.split("\n")[1:]:
        assert ">=" in line, line
        assert "<" in line, line


def test_the_command_is_installed():
    scripts = [e for e in metadata.entry_points(group="console_scripts") if e.name == "huscf"]
    assert scripts[0].value == "huscf.__main__:main"
    assert metadata.version("huscf") == huscf.__version__
