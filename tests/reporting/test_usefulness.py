"""Tables of what samples are worth."""

import pytest

from huscf.metrics.evaluation import DomainScores
from huscf.reporting import (
    make_published_table,
    make_score_tables,
    make_usefulness_table,
    summarize_scores,
)
from huscf.reporting.usefulness import explain_gains

BUDGET = {
    "rounds": 12,
    "steps": 600,
    "clients": 8,
    "samples": 4_800,
    "batch_size": 64,
    "generator_parameters": 171_000,
}
TOGETHER = {"downstream_accuracy": 0.9, "downstream_accuracy_pooled": 0.95}


def cells(table):
    return [list(column.cells) for column in table.columns]


def client(own, mixed):
    return {
        "downstream_accuracy_own": own,
        "downstream_accuracy_mixed": mixed,
        "downstream_gain": mixed - own,
    }


@pytest.fixture
def scores():
    by_client = {0: client(0.5, 0.75), 1: client(0.7, 0.75), 2: client(0.9, 0.8)}
    return DomainScores("mnist", {0: TOGETHER}, 5, by_client, 9, 5)


def test_a_training_run_ends_with_real_and_generated_data_side_by_side(scores):
    row = {f"eval/a/{name}": value for name, value in scores.row.items()}
    table = make_usefulness_table({**row, "eval/b/judge_accuracy": 0.5, "round": 3})
    assert cells(table) == [
        ["a"],
        ["0.700 ± 0.200"],
        ["0.950"],
        ["0.900"],
        ["0.767 ± 0.029"],
        ["+0.067, least -0.100"],
    ]
    assert make_usefulness_table({"eval/b/judge_accuracy": 0.5}) is None


def test_a_test_says_least_median_and_most_over_clients(scores):
    summary = summarize_scores([scores], {0: 0, 1: 0, 2: 1}, seed=0)
    text = "mnist least -0.100, median +0.050, most +0.250 (3 clients)"
    assert explain_gains(summary) == f"gain by generated samples: {text}"
    (table, _) = make_score_tables(summary)
    assert text in table.caption
    columns = cells(table)
    own = columns[1].index("... own real data")
    assert [column[own] for column in columns[2:]] == ["-", "0.700 ± 0.200"]
    pooled = columns[1].index("... pooled real data")
    assert [column[pooled] for column in columns[2:]] == ["0.950", "-"]
    without = DomainScores("mnist", {0: {"x": 1.0}}, 5, {0: {"x": 1.0}}, 1, 5)
    assert explain_gains(summarize_scores([without], {0: 0}, seed=0)) == ""


def test_the_papers_figures_stand_beside_those_of_the_run_with_both_budgets():
    figures = {"downstream_accuracy": 0.9487, "generation_score": 9.738}
    scores = [DomainScores(name, {0: figures}, 5, {}, 4, 5) for name in ("mnist", "own")]
    summary = summarize_scores(scores, {}, seed=0, plain_judge=True, protocol="paper")
    result = {"scenario": 3, "what": "IID", "domain": "mnist", "accuracy": 0.9683, "score": 9.95}
    table = make_published_table({**summary, "published": [result], "budget": BUDGET})
    assert [column[0] for column in cells(table)] == [
        *("mnist", "94.87", "96.83", "-1.96", "9.74", "9.95", "-0.21", "3: IID"),
    ]
    assert [column[1] for column in cells(table)] == [
        *("own", "94.87", "-", "-", "9.74", "-", "-", "none"),
    ]
    assert "12 rounds, 600 steps, batch 64, 8 clients with 4800 samples in all" in table.caption
    assert "published: 50 rounds of 5 epochs, batch 64" in table.caption
    assert "by the protocol of the paper" in make_score_tables(summary)[0].caption
