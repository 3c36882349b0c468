"""What a step of a finished run would take on given devices, from its method's declared phases."""

from ..callbacks.budget import step_seconds
from ..planning import DevicesFile
from ..reporting import RunRecord
from ..resuming import find_newest
from ..sampling import load_gan


def simulate_step(run: RunRecord, devices: DevicesFile) -> float | None:
    """Return the seconds of a step of a run's plan, with its share of a round's traffic.

    Args:
        run: The run; its last checkpoint has the method and the plan.
        devices: For as many clients as the run has.

    Returns:
        By the latency model corrected; None where no checkpoint is left.

    Raises:
        HuscfError: Where the devices are not for the run's clients.
    """
    if (checkpoint := find_newest(run.folder)) is None:
        return None
    module = load_gan(checkpoint).module
    data = run.config["data"]
    arguments = data.get("init_args") or {} if isinstance(data, dict) else {}
    batch_sizes = dict.fromkeys(module.plan.client_ids, arguments.get("batch_size", 64))
    last = run.last()
    steps = max(1, round(last.get("step", 1) / max(1, last.get("round", 1))))
    return step_seconds(module, batch_sizes, devices, steps)
