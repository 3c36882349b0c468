"""What mkdocs adds to the pages in docs/: the repository's own, the notebook, and the reference."""

import json
import posixpath
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).resolve().parents[1]
#: Pages of the site that stand above docs/ in the repository.
ABOVE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
#: Packages of the reference.
PACKAGES = (
    *("methods", "models", "split", "planning", "federation", "wire", "parties", "engines"),
    *("training", "datamodules", "callbacks", "metrics", "metrics.evaluation", "sampling"),
    *("reporting", "bench"),
)
_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?\))")
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@event_priority(100)  # before mkdocstrings looks
def on_config(config: Any) -> Any:
    """Show mkdocstrings the package as it is installed, and put the reference into the menu."""
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)
    package = shutil.copytree(REPOSITORY / "huscf", Path(folder.name, "huscf"))
    for name in ("callbacks", "datamodules"):
        shutil.copytree(REPOSITORY / name, package / name)
    config.plugins["mkdocstrings"].config.handlers["python"]["paths"] = [folder.name]
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = [{f"huscf.{n}": _reference_page(n)} for n in PACKAGES]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not files in docs/, and sources that pages link to."""
    for page, path in ABOVE.items():
        files.append(File.generated(config, page, content=(REPOSITORY / path).read_text()))
    for name in PACKAGES:
        text = f"# huscf.{name}\n\n::: huscf.{name}\n"
        files.append(File.generated(config, _reference_page(name), content=text))
    for notebook in (REPOSITORY / "docs").rglob("*.ipynb"):
        page = notebook.relative_to(REPOSITORY / "docs").with_suffix(".md").as_posix()
        files.append(File.generated(config, page, content=_show_notebook(notebook)))
    known = {file.src_uri for file in files}
    for file in list(files.documentation_pages()):
        for _, target, _ in _LINK.findall(file.content_string):
            path = _resolve(file.src_uri, target)
            page = _site_path(path)
            if page not in known and page.startswith("source/") and (REPOSITORY / path).is_file():
                known.add(page)
                files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links as they work in the repository into those of the site."""
    own = page.file.src_uri

    def rewrite(match: re.Match[str]) -> str:
        target = _site_path(_resolve(own, match[2]))
        return match[1] + posixpath.relpath(target, posixpath.dirname(own) or ".") + match[3]

    return _LINK.sub(rewrite, markdown)


def _resolve(page: str, target: str) -> str:
    """Return the path in the repository that a page's link leads to."""
    above = ABOVE.get(page)
    here = "" if above else posixpath.join("docs", posixpath.dirname(page))
    return posixpath.normpath(posixpath.join(here, target))


def _site_path(path: str) -> str:
    """Return where on the site a file of the repository is."""
    for page, own in ABOVE.items():
        if path == own:
            return page
    if path.startswith("docs/"):
        return path.removeprefix("docs/").replace(".ipynb", ".md")
    return f"source/{path}"


def _reference_page(name: str) -> str:
    return f"reference/{name}.md"


def _show_notebook(path: Path) -> str:
    """Return the cells of a notebook as a page."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"
