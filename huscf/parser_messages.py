"""The parser's messages in one line: the key, what it is, what it must be, and what was meant."""

import difflib
import inspect
import re
import sys
from typing import Any

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


def shorten(line: str) -> str:
    """Return what a message of the parser says, or the message where it is of no known kind.

    Args:
        line: The message in one line.
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
    is_word = "Literal" in rest and "." not in value
    if _NOT_FOUND.search(rest) and not is_word:
        return f"{key}: there is no {value}{_suggest_class(value, rest)}"
    if wanted := _name_types(rest):
        return f"{key} is {value:.80}, must be {wanted}{_explain_yaml(value, wanted)}"
    return f"{key}: {rest.partition(' Given value type:')[0]}"


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
