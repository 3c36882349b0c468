import pytest

from huscf.errors import PlanError
from huscf.planning import ClientDevice, DeviceProfile, DriftSchedule, Fleet


def test_drift_schedule_holds_from_its_round_on(planned, tmp_path):
    fleet, _ = planned
    path = tmp_path / "drift.yaml"
    path.write_text(
        "events:\n- {round: 2, profile: device1, speed_factor: 0.5}\n"
        "- {round: 3, client: 4, uplink_factor: 0.1, memory_factor: 0.5}\n"
    )
    schedule = DriftSchedule.load(path)
    assert schedule.apply(1, fleet) == fleet
    later = schedule.apply(5, fleet)
    for before, after in zip(fleet.clients, later.clients, strict=True):
        speed = 0.5 if before.profile.name == "device1" else 1.0
        uplink = 0.1 if before.client_id == 4 else 1.0
        assert after.profile.speed_flops_per_s == speed * before.profile.speed_flops_per_s
        assert after.profile.uplink_bits_per_s == uplink * before.profile.uplink_bits_per_s


def test_drift_names_numbered_profiles_and_known_figures(planned, tmp_path):
    server, path = planned[0].server, tmp_path / "drift.yaml"
    fleet = Fleet((ClientDevice(0, DeviceProfile("1", 1e9, 1e6, 1e6), 8),), server)
    path.write_text("events: [{round: 1, profile: 1, speed_factor: 1e-3}]")
    schedule = DriftSchedule.load(path)
    schedule.check(fleet)
    assert schedule.apply(1, fleet).clients[0].profile.speed_flops_per_s == 1e6
    path.write_text("events: [{round: 1, client: 0, memory_factor: 0.5}]")
    with pytest.raises(PlanError, match="memory_factor: profile 1 has no memory_mib"):
        DriftSchedule.load(path).check(fleet)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("events: 3", "events is missing or not a list"),
        ("events: [{round: 1, profile: a, speed: 2}]", r"events\[0\]: unknown key speed"),
        ("events: [{round: 1, speed_factor: 2}]", "give either profile or client"),
        ("events: [{profile: a, speed_factor: 2}]", "round is missing"),
        ("events: [{round: 1, profile: a, speed_factor: 0}]", "speed_factor is 0"),
        ("events: [{round: 1, profile: a, speed_factor: 1e-300}]", "speed_factor is 1e-300"),
        ("events: [{round: 1.7, profile: a, speed_factor: 2}]", "round is 1.7, must be a whole"),
        ("events: [{round: 1, client: null, speed_factor: 2}]", "client is None, must be a whole"),
        ("events: [{round: 1, client: true, speed_factor: 2}]", "client is True, must be a whole"),
        ("events: [{round: 1, profile: null, speed_factor: 2}]", "profile is None, must be the"),
        ("events: [{round: 1, profile: a}]", "nothing changes; give at least one of speed_factor"),
        ("{events: [], event: 3}", "unknown key event; known: events"),
        ("{events: [], events: []}", "the key events is repeated"),
    ],
)
def test_bad_drift_files_are_refused(tmp_path, text, message):
    path = tmp_path / "drift.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=message):
        DriftSchedule.load(path)
