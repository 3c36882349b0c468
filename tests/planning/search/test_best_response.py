from huscf.planning import decide_by_turns
from huscf.planning.search.best_response import announce, improve_by_turns
from tests.planning.planning_cases import build, draw_fleet


def test_turns_announce_anew_only_after_a_change(small_subject, monkeypatch):
    problem = build(small_subject, draw_fleet(12, 18))
    settled, sweeps = decide_by_turns(problem)
    calls = []
    count = lambda *args: calls.append(1) or announce(*args)  # noqa: E731
    monkeypatch.setattr("huscf.planning.search.best_response.announce", count)
    again, one = improve_by_turns(problem, settled, max_sweeps=50)
    assert (again == settled).all() and one == 1 < sweeps
    assert len(calls) == 2  # one per network
