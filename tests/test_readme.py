"""The README's commands are the ones that CI runs, and what it names is there."""

import re

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def test_the_two_commands_of_a_newcomer_stand_there_and_in_ci():
    ci = (REPOSITORY / ".ci" / "run").read_text()
    install = "pip install -e . && huscf fit --config configs/quickstart.yaml"
    test = 'pip install -e ".[test]" && pytest'
    assert install in README
    assert test in README
    assert "huscf fit --config configs/quickstart.yaml" in ci
    assert '-e ".[test]"' in ci
    assert re.search(r"^pytest", ci, re.M)


def test_every_file_that_the_readme_names_exists():
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    named += re.findall(r"(configs/[\w./-]+\.yaml)", README)
    assert len(named) > 3
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    assert missing == []


def test_every_class_path_that_the_readme_names_imports():
    import importlib

    paths = set(re.findall(r"class_path: (huscf\.[\w.]+)", README))
    assert paths
    for path in paths:
        module, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), path
