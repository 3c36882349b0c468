"""The command completion: what a shell offers after huscf, as its help says."""

import re
from collections.abc import Callable, Iterable, Sequence

from .commands import CommandParser
from .named_configs import list_shipped

SHELLS = ("bash", "zsh")

_DESCRIPTION = """\
Print a script that lets a shell complete commands, keys, files and names of configurations.
bash: huscf completion bash > ~/.local/share/bash-completion/completions/huscf
zsh:  huscf completion zsh > ~/.huscf-completion, and in ~/.zshrc: source ~/.huscf-completion"""

_CHOICES = re.compile(r"  \{([\w,-]+)\}")
_OPTION = re.compile(r"(?<![\w.\[-])--?[A-Za-z][\w.-]*")

_SCRIPT = """\
# Completion of huscf; made by: huscf completion SHELL
_huscf() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} options=
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "COMMANDS" -- "$current"))
        return
    fi
    case "${COMP_WORDS[1]}" in
OPTIONS
    esac
    if [[ $previous == --config || $previous == -c ]]; then
        COMPREPLY=($(compgen -W "CONFIGS" -- "$current") $(compgen -f -- "$current"))
    elif [[ $current == -* || ($previous != -* && $options != -*) ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}
complete -o filenames -F _huscf huscf
"""


def main(arguments: Sequence[str], commands: Iterable[str], show_help: Callable[[str], str]) -> int:
    """Print the script; return 0.

    Args:
        arguments: Options of the command.
        commands: Names of all commands.
        show_help: Returns the help of a command, "" where it cannot be had here.

    Raises:
        HuscfError: For an unknown shell.
    """
    parser = CommandParser(prog="huscf completion", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(list(arguments)).shell
    options = {command: find_options(show_help(command)) for command in commands}
    if shell == "zsh":
        print("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit")
    print(make_script(options, list(list_shipped())), end="")
    return 0


def find_options(text: str) -> list[str]:
    """Return the options that stand at the beginning of lines of a help, and choices of words."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        if words := _CHOICES.match(line):
            found |= dict.fromkeys(words[1].split(","))
        elif before := re.match(r"\s{0,6}-[^\n]*?(?=\s{2,}|$)", line):
            found |= dict.fromkeys(_OPTION.findall(before[0]))
    return [option for option in found if not option.startswith("-") or option[:2] == "--"]


def make_script(options: dict[str, list[str]], configs: Sequence[str]) -> str:
    """Return the script.

    Args:
        options: Of every command.
        configs: Names that --config takes beside files.
    """
    cases = [f'        {name}) options="{" ".join(own)}" ;;' for name, own in options.items()]
    return (
        _SCRIPT.replace("OPTIONS", "\n".join(cases))
        .replace("COMMANDS", " ".join(options))
        .replace("CONFIGS", " ".join(configs))
    )
