from collections.abc import Callable

import pytest
import yaml

from huscf.planning import (
    DevicesFile,
    Fleet,
    PlanOptions,
    PlanProblem,
    PlanSubject,
    build_problem,
    search_plan,
)
from huscf.split import CutPlan
from tests.planning.planning_cases import DEVICES, PAPER_MIX, make_subject


@pytest.fixture(scope="session")
def paper_subject() -> PlanSubject:
    return make_subject()


@pytest.fixture(scope="session")
def make_paper_problem(paper_subject: PlanSubject) -> Callable[..., PlanProblem]:
    """Build a problem on the paper's devices from counts per profile and options."""
    values = yaml.safe_load(DEVICES.read_text())

    def make(counts: tuple[int, ...] = PAPER_MIX, **options: object) -> PlanProblem:
        names = list(values["profiles"])
        used = {name: count for name, count in zip(names, counts, strict=False) if count}
        devices = DevicesFile.from_dict({**values, "assignment": {"counts": used}})
        fleet = devices.make_fleet(dict.fromkeys(devices.client_ids(), 64), seed=0)
        return build_problem(paper_subject, fleet, PlanOptions(**options))

    return make


@pytest.fixture(scope="session")
def small_subject() -> PlanSubject:
    return make_subject(width=8)


@pytest.fixture(scope="session")
def planned(make_paper_problem: Callable[..., PlanProblem]) -> tuple[Fleet, CutPlan]:
    """The paper's devices and a plan for them."""
    problem = make_paper_problem()
    return problem.fleet, search_plan(problem).plan
