"""The parser's messages in one line: the key, what it is, what it must be, and what was meant."""

import difflib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .errors import make_printable

#: What a type is called; the others keep their name.
TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "NoneType": "null",
    "collections.abc.Mapping": "a mapping",
}

_NOT_FOUND = re.compile(
    r"module '[\w.]+' has no attribute '\w+'|Expected a dot import path string|No module named"
)


#: A type, in the parser's words, for which a class or function may be named by its path.
_CLASS = re.compile(r"<class '\w+\.[\w.]+'>|Callable")


def shorten(line: str, named: Collection[str] = ()) -> str:
    """Return what a message of the parser says, or the message where it is of no known kind.

    Args:
        line: The message in one line.
        named: Import paths that the user's own configuration or command line names. Their modules
            are imported to find out what is wrong with them, and nothing else is.
    """
    if re.search(r"the following arguments are required: (fit\.)?data\b", line):
        return (
            "the data are missing: give --config FILE, for instance --config quickstart, or "
            "--data CLASS; huscf fit --help shows all keys"
        )
    keys = re.findall(r'Parser key "([^"]+)"', line)
    if not keys:
        return line
    key = ".init_args.".join(keys)
    rest = line.rpartition(f'Parser key "{keys[-1]}"')[2].lstrip(": ")
    if "codec can't decode" in rest:
        return f"{key}: the file that it names is not in UTF-8: save it as that"
    value = _find_value(rest)
    if value is None:
        return f"{key}: {rest.partition(' Given value type:')[0]}"
    if reason := _explain_imports(value, rest, named):
        return f"{key}: {reason}"
    is_word = "Literal" in rest and "." not in value
    if _NOT_FOUND.search(rest) and not is_word:
        return f"{key}: there is no {value}{_suggest_class(value, rest)}"
    if wanted := _name_types(rest):
        return f"{key} is {value:.80}, must be {wanted}{_explain_yaml(value, wanted)}"
    return f"{key}: {rest.partition(' Given value type:')[0]}"


def _explain_imports(value: str, rest: str, named: Collection[str]) -> str:
    """Return what is wrong with the first module of the user's own that a value names, or ""."""
    if not _CLASS.search(rest.partition("Given value")[0]):
        return ""
    paths = [p for p in re.findall(r"\w+(?:\.\w+)+", value) if p in named]
    reasons = (_explain_import(path) for path in paths if not path.startswith("huscf."))
    return next(filter(None, reasons), "")


def _explain_import(path: str) -> str:
    """Return why a class or function cannot be imported, and where; "" where its module can be.

    Args:
        path: Its import path, which the user trusts: the module is run.
    """
    module = path.rpartition(".")[0]
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            return f"{path} cannot be imported: {_describe(error)}"
        parent, _, last = error.name.rpartition(".")
        if parent and hasattr(sys.modules.get(parent), last):
            return ""  # a class, and path leads into it
        hint = "" if parent else "; is its folder on PYTHONPATH?"
        return f"there is no {path}: no module {error.name}{hint}"
    except Exception as error:  # whatever a module of the user's raises
        return f"{path} cannot be imported: {_describe(error)}"
    return ""


def _describe(error: Exception) -> str:
    """Return file, line and words of what a module raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(f.filename, f.lineno) for f in frames if not f.filename.startswith("<")]
    file, number = places[-1]
    words = str(error)
    if isinstance(error, SyntaxError):
        file, number, words = error.filename or file, error.lineno, error.msg
    if not isinstance(error, ImportError):
        words = f"{type(error).__name__} {words}"
    shown = Path(file)
    if shown.is_relative_to(Path.cwd()):
        shown = shown.relative_to(Path.cwd())
    return make_printable(f"{shown}, line {number}: {' '.join(words.split()):.200}")


def _find_value(rest: str) -> str | None:
    """Return what was given, out of what the parser says of one key."""
    word = "Given value" if "Subtypes:" in rest else "Got value"
    found = re.search(rf"{word}: (.*?)(?: - Expected | Given value type:|\. Got value: |$)", rest)
    if found is None:
        return None
    nested = re.fullmatch(r"NestedArg\(key='.*?', val='?(.*?)'?\)", found[1])
    return nested[1] if nested else found[1]


def _name_types(rest: str) -> str:
    """Return the types of which a value must be one."""
    if union := re.search(r"Subtypes: \[(.*?)\] Errors:", rest):
        types = re.split(r", (?![^\[]*\])", union[1])
    elif single := re.search(r"Expected an? (.+?)(?:\. Got| - |$)", rest):
        types = [single[1]]
    else:
        return ""
    return " or ".join(dict.fromkeys(map(_name_type, types)))


def _name_type(text: str) -> str:
    """Return what a type is called, from how Python writes it."""
    name = re.sub(r"<class '([\w.]+)'>", r"\1", text.strip())
    if choices := re.fullmatch(r"typing\.Literal\[(.*)\]", name):
        return f"one of {choices[1]}".replace("'", "")
    if items := re.fullmatch(r"list\[(.*)\]", name):
        return f"a list of {_name_type(items[1])}".replace("of a ", "of ")
    if items := re.fullmatch(r"tuple\[(.*)\]", name):
        return f"[{', '.join(map(_name_type, items[1].split(', ')))}]"
    if "Callable" in name:
        return "the import path of a class or function"
    return TYPE_NAMES.get(name, name.rpartition(".")[2])


def _explain_yaml(value: str, wanted: str) -> str:
    """Return what to do where YAML has made something else of a name."""
    if "text" not in wanted or value.startswith(("{", "'")):
        return ""
    if "True" in value or "False" in value:
        return "; YAML reads yes, no, on and off as true and false: put names in quotes, 'no'"
    if re.search(r"\d", value):
        return "; YAML reads digits as numbers: put names in quotes, '0'"
    return ""


def _suggest_class(value: str, rest: str) -> str:
    """Return the classes that may stand where an unknown one was given, the likeliest first."""
    bases = [_find(path) for path in re.findall(r"huscf(?:\.\w+)+", rest)]
    classes = [base for base in bases if inspect.isclass(base) and base.__name__ != "SampleShape"]
    module = classes[0].__module__ if classes else value
    package = sys.modules.get(".".join(module.split(".")[:2]))
    names = [
        name
        for name in getattr(package, "__all__", [])
        if _fits(getattr(package, name), classes[0] if classes else None)
    ]
    near = difflib.get_close_matches(value.rpartition(".")[2], names, n=1)
    assert package is not None or not names
    hint = "".join(f"; did you mean {package.__name__}.{name}?" for name in near if package)
    return hint + (f"; there are {', '.join(names)}" if names and classes else "")


def _fits(named: Any, base: type | None) -> bool:
    """Return whether a class may stand where a base class is wanted."""
    if base is None:
        return inspect.isclass(named) or inspect.isfunction(named)
    return inspect.isclass(named) and issubclass(named, base) and not inspect.isabstract(named)


def _find(path: str) -> Any:
    """Return what is loaded at a path, or None; nothing is imported for a message."""
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
