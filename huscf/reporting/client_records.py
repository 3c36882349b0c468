"""clients.csv: cuts, traffic, and what the last round decided, a record for every client."""

from collections.abc import Mapping
from typing import Any

from ..engines import LocalEngine
from .federation_history import FederationRow


def describe_clients(
    engine: LocalEngine, domains: Mapping[int, str], rows: Mapping[int, FederationRow]
) -> list[dict[str, Any]]:
    """Return one record per client.

    Args:
        engine: Whose clients.
        domains: By client, as far as they are known.
        rows: Of the last round, by client.
    """
    traffic = engine.wire.traffic
    records = []
    for plan in engine.plan.clients:
        client = plan.client_id
        row = rows.get(client)
        decided = {
            name: "" if row is None else getattr(row, name)
            for name in ("weight", "divergence", "map_x", "map_y")
        }
        records.append(
            {
                "client": client,
                "domain": domains.get(client, ""),
                "profile": plan.profile,
                "cuts": " ".join(map(str, plan.cuts.as_list())),
                "num_samples": engine.client_sizes[client],
                "cluster": engine.clusters[client],
                **decided,
                "uplink_mbytes": traffic.total(client, "uplink") / 1e6,
                "downlink_mbytes": traffic.total(client, "downlink") / 1e6,
                "dropped_steps": engine.num_dropped[client],
            }
        )
    return records
