"""What stays of Lightning's launching of processes once they have met."""

import subprocess
import sys
from typing import Any

from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import distributed

from huscf.training import RankedStrategy


class Observer(_ChildProcessObserver):
    """Lightning's, which looks when it is told to, and kills nobody."""

    has_killed = False

    def _terminate_all(self) -> None:
        self.has_killed = True


def test_a_failed_process_no_longer_kills_the_first_once_all_have_met(monkeypatch: Any) -> None:
    """The first still has to print the reason, and to pass on signals."""
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    child.wait()
    strategy = RankedStrategy()
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=2, num_nodes=1)
    launcher.procs.append(child)
    strategy._launcher = launcher
    before, after = (Observer(main_pid=0, child_processes=launcher.procs) for _ in range(2))
    before._run()
    assert before.has_killed
    monkeypatch.setattr("lightning.pytorch.strategies.DDPStrategy.setup_distributed", lambda _: 0)
    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "new_group", lambda **_: None)
    strategy.setup_distributed()
    after._run()
    assert not after.has_killed
    assert launcher.procs == [child]
