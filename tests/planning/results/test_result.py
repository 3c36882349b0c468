import pytest

from huscf.errors import PlanError
from huscf.planning import search_plan
from huscf.split import CutPlan, SavedPlan
from tests.planning.planning_cases import build, draw_fleet


def test_saved_plan_is_read_back(small_subject, tmp_path):
    result = search_plan(build(small_subject, draw_fleet(3, 17)))
    path = tmp_path / "plan.yaml"
    result.save(path)
    assert CutPlan.load(path) == result.plan
    assert SavedPlan(str(path)).path == str(path)
    with pytest.raises(PlanError, match="exists already"):
        result.save(path)
