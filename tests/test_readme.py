"""The README's commands are the ones that CI runs, and what it and the guides name is there."""

import ast
import re
import runpy

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
    documents = [REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")]
    for document in [*documents, *(REPOSITORY / "docs").glob("*.md")]:
        for name, anchor in re.findall(
            r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", document.read_text()
        ):
            links += 1
            target = document.parent / name if name else document
            if not target.exists() or (anchor and anchor not in _find_anchors(target)):
                broken.append(f"{document.name}: {name}#{anchor}")
    assert links > 20
    assert broken == []


def test_tests_find_real_data_by_the_environment(monkeypatch, tmp_path):
    path = str(REPOSITORY / "tests" / "conftest.py")
    monkeypatch.setenv("HUSCF_DATA", str(tmp_path))
    assert runpy.run_path(path)["SHARED_DATA"] == tmp_path
    monkeypatch.delenv("HUSCF_DATA")
    assert runpy.run_path(path)["SHARED_DATA"] == REPOSITORY.parent / "shared" / "data"


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


def test_what_the_architecture_document_names_is_there():
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([A-Z]\w+)(?:\.(\w+))?(?:\([\w, ]*\))?`", text))
    methods = _list_methods()
    assert len(named) > 60
    assert [name for name, _ in named if name not in methods and name not in CONSTANTS] == []
    assert [f"{name}.{one}" for name, one in named if one and one not in methods[name]] == []
    paths = re.findall(r"`((?:huscf|callbacks|datamodules|tests)/[\w/]+\.py)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


#: What the document names beside classes.
CONSTANTS = {"ENGINES", "FORMATS"}


def _list_methods():
    """Names of methods by class, of every class of the package."""
    found = {}
    for folder in ("huscf", "callbacks", "datamodules"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    own = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                    found[node.name] = found.get(node.name, set()) | own
    return found
