"""The README's commands are the ones that CI runs, and what it and the guides name is there."""

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


def test_every_configuration_that_the_readme_names_exists():
    named = re.findall(r"(configs/[\w./-]+\.yaml)", README)
    assert len(named) > 3
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_every_link_between_documents_leads_to_a_file_and_a_heading():
    links, broken = 0, []
    for document in [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]:
        for name, anchor in re.findall(
            r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()
        ):
            links += 1
            target = document.parent / name if name else document
            if not target.exists() or (anchor and anchor not in _find_anchors(target)):
                broken.append(f"{document.name}: {name}#{anchor}")
    assert links > 20
    assert broken == []


def _find_anchors(document):
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_class_path_that_the_readme_names_imports():
    import importlib

    paths = set(re.findall(r"class_path: (huscf\.[\w.]+)", README))
    assert paths
    for path in paths:
        module, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), path
