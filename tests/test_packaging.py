"""What is installed is what stands in the repository."""

import configparser
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from importlib import metadata

import pytest
import yaml

import huscf
from tests.conftest import REPOSITORY


def setup():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg")
    return parser


def packages_on_disk():
    files = (REPOSITORY / "huscf").rglob("__init__.py")
    top = {".".join(path.parent.relative_to(REPOSITORY).parts) for path in files}
    moved = {f"huscf.{n}" for n in ("callbacks", "configs", "datamodules")}
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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Names in the sdist, and the wheel that is built from what the sdist unpacks to."""
    folder = tmp_path_factory.mktemp("built")
    parts = ("__pycache__", ".git", "runs", "build", "dist", "*.egg-info", ".*_cache", ".venv")
    shutil.copytree(REPOSITORY, folder / "tree", ignore=shutil.ignore_patterns(*parts))
    build = "from setuptools import build_meta as b; print(b.build_{}('{}'))"
    run = partial(subprocess.run, check=True, capture_output=True)
    run([sys.executable, "-c", build.format("sdist", folder)], cwd=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        # Before 3.11.4 there is no filter; the archive is our own.
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder / "unpacked", **filters)
    (unpacked,) = (folder / "unpacked").iterdir()
    run([sys.executable, "-c", build.format("wheel", folder)], cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return names, wheel


def test_the_sdist_is_the_repository(built):
    names, _ = built
    kept = ("huscf", "callbacks", "datamodules", "configs", "docs", "tests", "benchmarks")
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in kept
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    files = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE")
    wanted |= {*files, "Dockerfile", "mkdocs.yml", "pyproject.toml", "setup.cfg"}
    assert wanted - names == set()
    extra = {name for name in names - wanted if "." in name and "egg-info" not in name}
    assert extra <= {"PKG-INFO", "MANIFEST.in"}


def test_the_wheel_has_code_types_and_configurations_and_works_elsewhere(built, tmp_path):
    _, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    own = {name.removeprefix("huscf/") for name in names if name.startswith("huscf/")}
    files = (REPOSITORY / "configs").rglob("*.yaml")
    shipped = {path.relative_to(REPOSITORY).as_posix() for path in files}
    assert {name for name in own if not name.endswith(".py")} == shipped | {"py.typed"}
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"huscf", f"huscf-{huscf.__version__}.dist-info"}
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        "from huscf.__main__ import main; sys.exit(main(['plan', '--config', 'paper/devices', "
        "'--strategy', 'uniform', '--json']))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert '"latency_s"' in run.stdout


def test_metadata_versions_and_dates_agree():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    version, date = re.search(r"^## ([\d.]+) - (\d{4}-\d\d-\d\d)$", changelog, re.M).groups()
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert version == huscf.__version__ == citation["version"]
    assert date == str(citation["date-released"])
    supported = re.findall(r"Python :: (3\.\d+)", setup()["metadata"]["classifiers"])
    assert supported == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert setup()["options"]["python_requires"] == f">={supported[0]}"


def test_the_command_line_needs_no_extra():
    extras = ["msgpack", "grpc", "cryptography", "zstandard", "prometheus_client", "nvflare"]
    extras += ["dp_accounting", "safetensors", "pydicom", "nibabel"]
    blocked = f"import sys; sys.modules.update(dict.fromkeys({extras}))"
    command = [sys.executable, "-c", f"{blocked}; import huscf.cli, huscf.commands, huscf.sampling"]
    subprocess.run(command, check=True, cwd=REPOSITORY)
