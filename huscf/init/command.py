"""The command init: writes a commented configuration that trains."""

import shlex
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ..callbacks.run_folder import is_folder_name
from ..check_data import print_domains
from ..commands import CommandParser
from ..errors import HuscfError
from ..named_configs import list_shipped, name_all
from ..user_paths import check_folder, expand_path
from ..whole_files import write_text
from .folders import Found, look
from .templates import KINDS, fill

DESCRIPTION = """\
Write a commented configuration: of the quickstart, or for a folder of your own pictures (folder),
medical pictures (medical: DICOM, NIfTI, patients) or recordings (audio). With --data the folder is
looked at, and what can be told from it is filled in: domains, classes, sizes, colours, clients."""

EXAMPLES = """\
examples:
  huscf init folder --data my_pictures
  huscf init medical --data /data/ct --output ct.yaml
  huscf init quickstart

These come with huscf, and --config takes their names (a file of yours of that name wins):
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return 0.

    Raises:
        HuscfError: For input that the user can mend, and where the file exists already.
    """
    parser = CommandParser(
        prog="huscf init",
        description=DESCRIPTION,
        epilog=EXAMPLES + "  " + name_all(),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    kinds = ["quickstart", *KINDS]
    parser.add_argument("kind", nargs="?", choices=kinds, default="quickstart", help="of data")
    parser.add_argument("--data", type=Path, help="your folder; without it, fill in root yourself")
    parser.add_argument("--output", type=Path, help="a new file (default KIND.yaml)")
    options = parser.parse_args(list(arguments))
    output = expand_path(options.output or Path(f"{options.kind}.yaml"))
    _check_output(output)
    if options.kind == "quickstart":
        if options.data is not None:
            raise HuscfError(f"--data: quickstart has its own; use {', '.join(KINDS)}")
        text = list_shipped()["quickstart"].read_text(encoding="utf-8")
        text = text.replace("configs/quickstart.yaml", shlex.quote(str(output)))
    else:
        text = _write_for(options.kind, options.data, output)
    write_text(output, text)
    print(f"{output} is written; look at it, then:")
    quoted = shlex.quote(str(output))
    print(f"  huscf check-data --config {quoted}\n  huscf fit --config {quoted}")
    return 0


def _check_output(output: Path) -> None:
    if output.exists() or output.is_symlink():
        raise HuscfError(f"output {output}: exists already; nothing was written")
    check_folder(output)


def _write_for(kind: str, folder: Path | None, output: Path) -> str:
    name = output.stem if is_folder_name(output.stem) else kind
    if folder is None:
        return fill(kind, Found("my_data", {"north": "north", "south": "south"}), name, output)
    print(f"looking at {folder}; what is decoded is kept for runs\n", flush=True)
    found = look(kind, folder)
    if found.data is not None:
        print_domains(found.data)
        print()
    return fill(kind, found, name, output)
