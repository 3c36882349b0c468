"""The Compose file of the documentation, as far as that can be checked without Docker."""

import shlex
from pathlib import Path

import pytest
import yaml

from huscf.__main__ import main
from huscf.deploy.commands import COMMANDS

FILE = Path(__file__).parents[2] / "docs" / "deployment" / "compose.yaml"


def test_services_give_commands_and_options_that_there_are(capsys):
    services = yaml.safe_load(FILE.read_text())["services"]
    assert list(services) == ["server", "hospital-a", "hospital-b"]
    for name, service in services.items():
        command, *options = shlex.split(service["command"])
        assert command == ("serve" if name == "server" else "join") and command in COMMANDS
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = capsys.readouterr().out
        assert [o for o in options if o.startswith("--") and o not in known] == []
        # Every file that a command names is in its container, and no other party's.
        inside = [volume.split(":")[1].removeprefix("/workspace/") for volume in service["volumes"]]
        named = {o.split("/")[0] for o in options if not o.startswith("--") and ":" not in o}
        assert named <= set(inside)
        kits = [v.split(":")[0] for v in service["volumes"] if "/kit/" in v]
        assert kits == [f"./kit/{name}"]
