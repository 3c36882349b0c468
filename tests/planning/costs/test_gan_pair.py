import pytest

from tests.planning.planning_cases import gan_passes


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, 2),
        # Steps with wrong labels that end soon are not what most of a long run consists of.
        ({"mismatched_weight": 1.0}, 2),
        ({"mismatched_weight": 1.0, "mismatched_steps": None}, 3),
    ],
)
def test_a_step_of_the_pair(options, batches):
    """F_G + 3 F_D + 2 B_D + I_D + B_G, and one F_D and B_D more with wrong labels."""
    passes = gan_passes(**options)
    assert [(one.name, one.count) for one in passes] == [
        ("generator_forward", 1),
        ("discriminator_forward", batches + 1),
        ("discriminator_backward", batches),
        ("discriminator_input_backward", 1),
        ("generator_backward", 1),
    ]
    assert [one.network for one in passes if one.is_observed] == ["discriminator"]
