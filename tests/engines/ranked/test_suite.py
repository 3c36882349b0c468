"""The tests of engines, each run as it stands by two processes that share out its clients."""

import copy
from functools import partial

import pytest
import torch

from huscf.engines import StackedEngine
from huscf.engines.stacked import microbatch
from tests.engines import test_agreement, test_dropping, test_equality, test_mixing, test_moving
from tests.engines.ranked.thread_ranks import call_on_ranks
from tests.parties import test_memory


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch):
    """Every client by itself, so that both processes have some.

    Torch has one random stream, which the threads share: by it networks get their first weights,
    and are told to draw.
    """
    monkeypatch.setattr(microbatch, "STACKED_SAMPLES", 6)
    monkeypatch.setattr(StackedEngine, "draws", lambda *_: False)
    monkeypatch.setattr(torch, "manual_seed", lambda _: None)


MOMENTS = [{"moments": moments} for moments in ("keep", "average", "reset")]
POISONS = [{"poison": poison} for poison in ("samples", "head", "tail")]
#: Tests by what their parameters are. Of the others, one client needs no second process, a
#: recording wire is refused, and gradients are kept where they are stepped.
TESTS = [
    (
        test_equality.test_many_clients_get_their_own_gradients_and_the_server_the_mean,
        [
            {"cuts": test_equality.CUTS, "options": {"depth": 5}},
            {
                "cuts": {c: [1, 1, 1, 1] for c in range(4)},
                "options": test_equality.OTHER_FORMS,
            },
        ],
    ),
    (test_equality.test_shares_by_samples_scale_the_servers_gradient_only, [{}]),
    (test_equality.test_a_step_frees_what_was_kept_of_passes, [{}]),
    (test_mixing.test_averaging_identical_models_is_the_identity, [{}]),
    (test_mixing.test_clustered_averages_equal_the_closed_form_over_unequal_cuts, [{}]),
    (
        test_mixing.test_new_server_copies_inherit_parameters_and_moments_and_are_trained_apart,
        [{}],
    ),
    (test_mixing.test_clusters_may_share_some_of_the_servers_blocks, [{}]),
    (test_mixing.test_moments_are_kept_averaged_or_reset, MOMENTS),
    (test_mixing.test_a_diverged_client_recovers_with_the_average, MOMENTS),
    (test_moving.test_every_client_keeps_its_network_and_has_its_new_cuts, [{}]),
    (test_moving.test_moved_blocks_bring_their_moments_and_training_goes_on, [{}]),
    (test_moving.test_engines_move_alike, [{}]),
    (test_dropping.test_a_dropped_client_is_counted_and_poisons_nobody, POISONS),
    (test_dropping.test_a_client_with_nan_leaves_its_group_and_the_others_train_on, POISONS[1:]),
    (test_dropping.test_where_all_are_dropped_nothing_moves, [{}]),
    (test_agreement.test_weights_that_autocast_keeps_do_not_miss_an_optimisers_step, [{}]),
    (test_agreement.test_a_step_without_clients_changes_nothing, [{}]),
    (test_memory.test_averages_of_absent_clients_rest, [{}]),
]


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(partial(function, **options), id=f"{function.__name__}-{number}")
        for function, cases in TESTS
        for number, options in enumerate(cases)
    ],
)
def test_two_processes_pass_what_one_does(test):
    call_on_ranks(partial(test, engine="ranked"))


#: Whose networks or wire are not refused, as depending on the order of clients.
CASES = [
    name
    for name, options in test_agreement.CASES.items()
    if not {"discriminator", "wire"} & options.keys()
]


@pytest.mark.parametrize("case", CASES)
def test_several_steps_are_those_of_the_serial_engine(case, double_precision):
    options = test_agreement.CASES[case]

    def compare():
        one, other = (
            test_agreement.train(engine, **copy.deepcopy(options))
            for engine in ("serial", "ranked")
        )
        for each in (one, other):
            for name in [n for n in each[1] if test_agreement.server_norms(n)]:
                del each[1][name]
        test_agreement.assert_alike(one, other)
        one[2].engine.observe(), other[2].engine.observe()
        assert one[2].wire.traffic.num_bytes == other[2].wire.traffic.num_bytes

    call_on_ranks(compare)
