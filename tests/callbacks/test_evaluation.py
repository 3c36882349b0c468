"""Evaluations during training that fail say so, whichever process has the domain."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from lightning.pytorch.utilities import rank_zero_only

from huscf.callbacks import Evaluation
from huscf.errors import HuscfError
from huscf.metrics.evaluation import EvaluationSettings


@pytest.mark.parametrize("rank", [0, 1])
def test_a_domain_that_cannot_be_measured_is_named_by_the_process_that_has_it(monkeypatch, rank):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    book = Mock(measure=Mock(side_effect=HuscfError("no judge")))
    module = SimpleNamespace(score_book=book, num_rounds=3)
    settings = EvaluationSettings()
    with pytest.warns(UserWarning, match="round 3, digits: not evaluated: no judge"):
        assert Evaluation()._measure(module, None, "digits", settings) == {}
