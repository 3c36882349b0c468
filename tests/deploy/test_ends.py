"""How serve and join begin and end: what is checked first, what a signal does, exit codes."""

import signal
import socket
import subprocess
import sys

import pytest

from huscf.__main__ import main
from huscf.deploy import commands
from huscf.deploy.kits import write_kits
from huscf.deploy.site_run import SiteRun
from tests.deploy.cases import write_config


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The home folder of somebody who has a configuration and kits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_kits(tmp_path / "kit", {"a": [0], "b": [1]}, "localhost")
    write_config(tmp_path / "run.yaml", default_root_dir="~/runs")
    return tmp_path


def serve(*options):
    return main(["serve", "--config", "run.yaml", "--tls", "~/kit/server", *options])


def join(*options):
    address = ("--address", "localhost:1")
    return main(["join", "--config", "~/run.yaml", "--tls", "~/kit/a", *address, *options])


@pytest.mark.parametrize("goodbye", ["the run has ended", "the server has stopped"])
def test_a_site_tells_by_its_exit_code_whether_the_run_came_to_its_end(
    place, monkeypatch, capsys, goodbye
):
    monkeypatch.setattr(SiteRun, "run", lambda site: goodbye)
    assert join("--output", "~/half") == (0 if goodbye == "the run has ended" else 1)
    assert goodbye in capsys.readouterr().out
    assert (place / "half").is_dir() and not list((place / "half").iterdir())


def test_a_site_that_cannot_keep_its_half_does_not_call_the_server(place, monkeypatch, capsys):
    monkeypatch.setattr(SiteRun, "run", lambda site: pytest.fail("called"))
    assert join("--output", "run.yaml/x") == 2
    error = capsys.readouterr().err
    assert "output run.yaml/x: cannot be written (Not a directory)" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("is_saved", [False, True])
def test_a_server_that_is_interrupted_says_whether_it_can_go_on(
    place, monkeypatch, capsys, is_saved
):
    def interrupt(run, network):
        network.stop(0)
        if is_saved:
            (run.folder / "checkpoints").mkdir()
            (run.folder / "checkpoints" / "last.ckpt").touch()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(commands, "_lead", interrupt)
    assert serve("--listen", "127.0.0.1:0") == 130
    said = capsys.readouterr().out
    assert ("interrupted; go on with --ckpt_path last" in said) == is_saved
    assert ("interrupted; nothing is saved yet, begin anew" in said) != is_saved
    assert (place / "runs" / "tiny-1").is_dir() == is_saved  # an empty folder is no run


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("foo", "must be host:port, such as 0.0.0.0:8443"),
        ("127.0.0.1:99999", "must be host:port"),
        ("127.0.0.1:{taken}", "cannot listen there (Address already in use)"),
    ],
)
def test_a_server_that_cannot_listen_says_why_and_leaves_no_folder(place, capsys, listen, reason):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert serve("--listen", listen.format(taken=taken.getsockname()[1])) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1
    assert list((place / "runs").iterdir()) == []


ENDING = """
import signal, time
from huscf.signals import stopping_in_order
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
with stopping_in_order():
    try:
        print("running", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("ending", flush=True)
        time.sleep(60)
"""


def test_a_second_signal_does_not_disturb_the_end_and_a_third_ends_it():
    process = subprocess.Popen(
        [sys.executable, "-c", ENDING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() == "stopping in order; once more ends it at once\n"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()
