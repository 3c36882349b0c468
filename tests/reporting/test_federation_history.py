"""federation.csv as values, and colours of clusters over rounds."""

import csv

import pytest

from huscf.reporting.federation_history import (
    FederationRow,
    append_federation,
    by_round,
    choose_colours,
    embedding_of,
    read_federation,
    write_federation,
)


def make_rows(number, clusters, **changes):
    """One row per client; clusters by client."""
    return [
        FederationRow(number, client, "digits", cluster, 10, 0.5, 0.25, 1.0, -2.0)._replace(
            **changes
        )
        for client, cluster in clusters.items()
    ]


def colours_of(*rounds):
    """Colour of every client, round by round."""
    rows = [row for number, each in enumerate(rounds, 1) for row in make_rows(number, each)]
    chosen = choose_colours(by_round(rows))
    return [
        {client: chosen[number][cluster] for client, cluster in each.items()}
        for number, each in enumerate(rounds, 1)
    ]


def test_what_is_appended_is_read_again(tmp_path):
    path = tmp_path / "federation.csv"
    assert read_federation(path) == []
    first = make_rows(1, {0: 0, 1: 1})
    unseen = make_rows(2, {0: 0, 1: 1}, domain="", divergence=None, map_x=None, map_y=None)
    append_federation(path, first)
    append_federation(path, unseen)
    assert read_federation(path) == [*first, *unseen]
    with path.open() as file:
        lines = list(csv.reader(file))
    heading = "round,client,domain,cluster,num_samples,divergence,weight,map_x,map_y"
    assert lines[0] == heading.split(",")
    assert len(lines) == 5
    assert embedding_of(first) == {0: (1.0, -2.0), 1: (1.0, -2.0)}
    assert embedding_of(unseen) == {}
    assert list(by_round(reversed([*first, *unseen]))) == [1, 2]


def test_what_was_not_written_whole_is_not_read_and_rows_replace_a_file(tmp_path):
    path = tmp_path / "federation.csv"
    for number in (1, 2, 3):
        append_federation(path, make_rows(number, {0: 0, 1: 1}))
    with path.open("a") as file:
        file.write("4,0,dig")
    assert [row.round for row in read_federation(path)] == [1, 1, 2, 2, 3, 3]
    kept = read_federation(path)[:4]
    (tmp_path / "federation.csv.partial").write_text("half")
    write_federation(path, kept)
    assert read_federation(path) == kept
    assert list(tmp_path.iterdir()) == [path]


def test_a_cluster_keeps_its_colour_when_numbers_close_up():
    three = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2}
    # Cluster 0 vanishes into 1: what was 1 becomes 0, what was 2 becomes 1.
    two = {0: 0, 1: 0, 2: 0, 3: 0, 4: 1, 5: 1}
    first, second, third = colours_of(three, two, three)
    assert first == three
    assert second[4] == first[4] == third[4]
    assert second[2] in (first[0], first[2])
    assert third[0] != third[2]


def test_a_new_cluster_gets_a_colour_of_its_own():
    together, apart = dict.fromkeys(range(5), 0), {0: 1, 1: 1, 2: 0, 3: 0, 4: 0}
    first, second = colours_of(together, apart)
    assert set(first.values()) == {0}
    assert second[2] == 0
    assert second[0] == 1
    # Everybody changes number at once, nobody changes colour.
    swapped = {client: 1 - cluster for client, cluster in apart.items()}
    assert colours_of(apart, swapped)[0] == colours_of(apart, swapped)[1]


@pytest.mark.parametrize("clusters", [{}, {0: 0}])
def test_newcomers_alone_are_a_new_cluster(clusters):
    first, second = colours_of({7: 0, 8: 0}, {**clusters, 9: 1})
    assert first == {7: 0, 8: 0}
    assert set(second.values()).isdisjoint({0})
