"""A parser whose errors are one line that helps."""

import difflib
import inspect
import re
import sys
from typing import Any, ClassVar, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from .parser_messages import shorten
from .renamed_keys import explain_renamed
from .trust import find_denied, refuse


class OneLineParser(LightningArgumentParser):
    """Says in one line which key is wrong and what is allowed there, instead of the whole usage."""

    known_keys: ClassVar[list[str]] = []
    #: Import paths in the user's own configuration and options, whose modules a message may import.
    named: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # An abbreviation that happens to fit one key would hide a misspelled one.
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse as ever; an integer that no float can hold is an error like others."""
        try:
            return super().parse_args(*args, **kwargs)
        except OverflowError:
            self.error("a number is beyond 1.8e308, the largest that there is")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        line = " ".join(message.split())
        if denied := find_denied(line):
            line = f"the checkpoint: {refuse(denied)}"
        else:
            known = explain_renamed(line) or _name_missing_methods(line)
            short = line if "is not accepted" in line else shorten(line, self.named)
            line = known or _leave_out_null(short) + self._suggest(line)
        print(f"huscf: error: {line}", file=sys.stderr)
        sys.exit(2)

    def _suggest(self, line: str) -> str:
        """Return the keys that stand where an unknown one was given, the likeliest first."""
        if of_class := _REFUSED_OPTION.search(line):
            return _name_arguments(of_class.group(1) or of_class.group(2))
        match = re.search(r"(?:accept option |unrecognized arguments: )'?-*([\w.]+)", line)
        if match is None:
            return ""
        section = match.group(1).rpartition(".")[0]
        there = [key for key in self.known_keys if key.rpartition(".")[0] == section]
        near = difflib.get_close_matches(match.group(1), there or self.known_keys, n=1)
        names = ", ".join(key.rpartition(".")[2] for key in there)
        hints = [f"; did you mean {key}?" for key in near]
        hints += [f"; allowed in {section}: {names}"] if section and there else []
        return "".join(hints)


#: A class and an option that it does not take, which is named before or behind it.
_REFUSED_OPTION = re.compile(
    r"class_path '([\w.]+)': (?:Option '\w+' is not accepted|unrecognized arguments)"
    r"|Option '\w+' is not accepted.*?class_path='([\w.]+)'"
)


def _leave_out_null(line: str) -> str:
    """Return an error without the remark that the value is neither null nor a file's path."""
    line = re.sub(r"Does not validate against any of the Union .*? Errors: - ", "", line)
    line = re.sub(r"- Expected a path but \S+ either not accessible or invalid - ", "", line)
    return re.sub(r" - Expected a <class 'NoneType'> Given value.*", "", line)


def _name_arguments(class_path: str) -> str:
    """Return what the class or function that a class_path names takes."""
    if (named := _import(class_path)) is None:
        return ""
    names = inspect.signature(named).parameters
    return f"; {class_path.rpartition('.')[2]} takes: {', '.join(names)}"


def _name_missing_methods(line: str) -> str:
    """Return what a class lacks that was given and is abstract; "" where that is not the error."""
    if "is abstract" not in line:
        return ""
    key = re.findall(r'Parser key "([\w.]+)"', line)[-1]
    for pair in reversed(re.findall(r"'class_path': '([\w.]+)'|value: ([\w.]+\.\w+)", line)):
        name = "".join(pair)
        if missing := getattr(_import(name), "__abstractmethods__", None):
            return f"{key}: {name} must define {', '.join(sorted(missing))}"
    return ""


def _import(class_path: str) -> Any:
    """Return a class that the parser has imported; nothing is imported for a message."""
    module, _, name = class_path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
