"""The server's half of a run on disk: what it holds, and how a server goes on from it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..engines.remote import BlockRef
from ..errors import CheckpointError, check_complete
from ..models import SampleShape
from ..split import CutPlan
from ..training import FORMAT
from ..training.checkpoint_checks import add_fresh, check_same_network
from .ledger import Ledger

if TYPE_CHECKING:
    from .server_run import ServerRun


def get_half(run: "ServerRun") -> dict[str, Any]:
    """Return the server's blocks, and where the run stands, as in a whole checkpoint."""
    shape = run.shape
    server = {
        "run_id": run.run_id,
        "sizes": run.sizes,
        "shape": [shape.channels, shape.image_size, shape.num_classes],
        "roster": {name: list(own) for name, own in run.roster.items()},
        "step": run.step,
        "epoch": run.epoch,
        "steps_per_epoch": run.steps_per_epoch,
        "have_saved": sorted(run.have_saved),
        "owed": [[*ref, dict(state)] for ref, state in run.engine.blocks.owed.items()],
        "averages": run.engine.averages and run.engine.averages.get_state(),
        **run.report.get_state(),
        "federation": run.config.federation.state_dict(),
        "replanning": run.config.replanning.state_dict(),
        "devices": run.planner.figures,
    }
    huscf = {
        "format": FORMAT,
        "method": type(run.method).__name__,
        "engine": run.engine.get_state(),
        "num_rounds": run.num_rounds,
        "torch_rng": torch.get_rng_state(),
        "server": server,
    }
    return {
        "state_dict": {f"parties.{n}": t for n, t in run.engine.parties.state_dict().items()},
        "huscf": huscf,
        "huscf_config": run.config.values,
        "global_step": run.step,
    }


def set_half(run: "ServerRun", saved: Mapping[str, Any]) -> None:
    """Let a server go on from a saved half; sites that it does not know begin."""
    huscf = saved["huscf"]
    known = huscf["server"]
    Ledger(run.folder).check_kept(huscf["engine"])
    run.run_id, run.step, run.epoch = known["run_id"], known["step"], known["epoch"]
    run.num_rounds, run.steps_per_epoch = huscf["num_rounds"], known["steps_per_epoch"]
    run.have_saved = set(known["have_saved"])
    run.report.set_state(known)
    run.config.federation.load_state_dict(known["federation"])
    run.config.replanning.load_state_dict(known["replanning"])
    run.planner.figures = {**known["devices"], **run.planner.figures}
    new = {name: run.roll.sizes_of(name) for name in run.newcomers}
    run.set_up(known["sizes"] | new, CutPlan.from_dict(huscf["engine"]["plan"]))
    fresh = run.engine.set_structure(huscf["engine"], may_join=True)
    tensors = {n.removeprefix("parties."): t for n, t in saved["state_dict"].items()}
    parties = run.engine.parties
    tensors = add_fresh(tensors, parties.state_dict(), fresh)
    check_same_network(tensors, parties.state_dict())
    parties.load_state_dict(tensors)
    run.engine.make_optimizers()
    if run.engine.averages is not None:
        run.engine.averages.set_state(known["averages"])
        run.engine.averages.note_newcomers()
    run.engine.blocks.owed = {BlockRef(*ref): state for *ref, state in known["owed"]}
    run.engine.set_optimizers(huscf["engine"]["optimizers"])
    torch.set_rng_state(huscf["torch_rng"])


def read_shape(saved: Mapping[str, Any]) -> SampleShape:
    """Return how the samples of a saved run look."""
    return SampleShape(*saved["huscf"]["server"]["shape"])


def find_newcomers(saved: Mapping[str, Any], roster: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the sites that a saved half does not know.

    Raises:
        CheckpointError: Where it is of another kind of run, or its sites are not in the roster.
    """
    huscf = saved["huscf"]
    if "server" not in huscf:
        raise CheckpointError("the checkpoint is of a run in one process: huscf fit goes on")
    known = huscf["server"]
    expected = ("run_id", "sizes", "shape", "roster", "step", "epoch", "steps_per_epoch")
    check_complete(known, (*expected, "have_saved", "owed", "federation", "replanning", "devices"))
    for name, own in known["roster"].items():
        if roster.get(name) != tuple(own):
            raise CheckpointError(
                f"the checkpoint is of other sites than roster.yaml names: there {name} has "
                f"clients {list(own)}; sites may be added, not taken out"
            )
    return [name for name in roster if name not in known["roster"]]
