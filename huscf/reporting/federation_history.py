"""federation.csv: what every round's federation decided about every client."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..federation import RoundDecision, align_embedding
from ..whole_files import escape_cell, replacing, unescape_cell

#: Number of a colour by cluster.
Colours = dict[int, int]


class FederationRow(NamedTuple):
    """One client in one round.

    Args:
        round: Number of the round, from 1.
        client: The client.
        domain: Its hidden domain, known in simulation only; "" otherwise.
        cluster: The cluster that it was found to belong to.
        num_samples: Its training samples.
        divergence: KLD_k in nats; None where the server saw nothing of the client.
        weight: Its weight in its cluster's average; a cluster's weights sum to 1.
        map_x: Place on the map of features, turned to lie as the previous round's map; None
            where the server saw nothing of the client.
        map_y: Likewise.
    """

    round: int
    client: int
    domain: str
    cluster: int
    num_samples: int
    divergence: float | None
    weight: float
    map_x: float | None
    map_y: float | None


def describe_decision(
    number: int,
    decision: RoundDecision,
    domains: Mapping[int, str],
    sizes: Mapping[int, int],
    before: Sequence[FederationRow],
) -> list[FederationRow]:
    """Return one row per client; points lie as those of the round before.

    Args:
        number: Of the round, from 1.
        decision: What the round has decided.
        domains: By client, as far as they are known.
        sizes: Training samples by client.
        before: Rows of the round before.
    """
    points = align_embedding(decision.embedding_2d, embedding_of(before))
    return [
        FederationRow(
            number,
            client,
            domains.get(client, ""),
            cluster,
            sizes[client],
            decision.divergences.get(client),
            decision.weights[client],
            *points.get(client, (None, None)),
        )
        for client, cluster in sorted(decision.clusters.items())
    ]


def append_federation(path: Path, rows: Sequence[FederationRow]) -> None:
    """Add a round's rows to the file, which is made where it does not exist."""
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        cells = [[escape_cell(value) for value in row] for row in rows]
        writer.writerows([*([[*FederationRow._fields]] if is_new else []), *cells])


def read_federation(path: Path) -> list[FederationRow]:
    """Return all rows, none where there is no file; a row that was not written whole ends them."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for values in csv.DictReader(file):
            if None in values.values():
                break
            rows.append(_parse(values))
    return rows


def write_federation(path: Path, rows: Sequence[FederationRow]) -> None:
    """Replace the file, or the lack of one, by these rows at once."""
    with replacing(path) as partial:
        append_federation(partial, rows)


def by_round(rows: Iterable[FederationRow]) -> dict[int, list[FederationRow]]:
    """Return the rows of every round, rounds ascending."""
    rounds: dict[int, list[FederationRow]] = {}
    for row in rows:
        rounds.setdefault(row.round, []).append(row)
    return dict(sorted(rounds.items()))


def embedding_of(rows: Iterable[FederationRow]) -> dict[int, tuple[float, float]]:
    """Return the places of the clients that have one."""
    return {
        row.client: (row.map_x, row.map_y)
        for row in rows
        if row.map_x is not None and row.map_y is not None
    }


def choose_colours(
    rounds: Mapping[int, Sequence[FederationRow]],
) -> dict[int, Colours]:
    """Return the colour, 0, 1, ..., of every cluster in every round.

    A cluster keeps the colour that most of its clients had in the round before, whatever its
    number: numbers close up when a cluster vanishes.

    Args:
        rounds: From `by_round`.
    """
    chosen: dict[int, Colours] = {}
    before: dict[int, int] = {}
    for number, rows in rounds.items():
        colours = chosen[number] = _match_colours(rows, before)
        before = {row.client: colours[row.cluster] for row in rows}
    return chosen


def _match_colours(rows: Sequence[FederationRow], before: Mapping[int, int]) -> Colours:
    from scipy.optimize import linear_sum_assignment

    clusters, old = sorted({row.cluster for row in rows}), sorted(set(before.values()))
    overlap = np.zeros((len(clusters), len(old)), dtype=int)
    for row in rows:
        if row.client in before:
            overlap[clusters.index(row.cluster), old.index(before[row.client])] += 1
    pairs = zip(*linear_sum_assignment(-overlap), strict=True)
    colours = {clusters[i]: old[j] for i, j in pairs if overlap[i, j]}
    used = {*colours.values(), *old}
    for cluster in clusters:
        if cluster not in colours:
            colours[cluster] = next(c for c in range(len(used) + 1) if c not in used)
            used.add(colours[cluster])
    return colours


def _parse(values: Mapping[str, str]) -> FederationRow:
    divergence, map_x, map_y = (
        float(values[name]) if values[name] else None for name in ("divergence", "map_x", "map_y")
    )
    return FederationRow(
        int(values["round"]),
        int(values["client"]),
        unescape_cell(values["domain"]),
        int(values["cluster"]),
        int(values["num_samples"]),
        divergence,
        float(values["weight"]),
        map_x,
        map_y,
    )
