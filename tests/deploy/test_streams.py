"""A site's new stream may begin just as its old one ends, in another thread."""

import threading
from collections import Counter
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from huscf.deploy import grpc_wire
from huscf.deploy.grpc_wire import GrpcServer


def make_sessions(connect, disconnect):
    """Sessions of one site whose present process dials again."""
    return SimpleNamespace(
        check_known=lambda name: None,
        tell_process=lambda name, data: "present",
        handle=lambda name, data: b"answer",
        connect=connect,
        disconnect=disconnect,
    )


def test_the_end_of_the_stream_before_does_not_end_the_presence_of_the_new_one(monkeypatch):
    monkeypatch.setattr(grpc_wire, "_name_peer", lambda context: "site")
    server = GrpcServer.__new__(GrpcServer)
    server._num_open = Counter()
    old, new, events, threads = MagicMock(), MagicMock(), [], []

    def connect(name):
        threads.append(threading.Thread(target=server._end, args=(name, old)))
        threads[0].start()
        threads[0].join(timeout=0.2)
        events.append("there")

    server.sessions = make_sessions(connect, lambda name: events.append("lost"))
    server._lock, server._streams = threading.Lock(), {"site": old}
    assert list(server._exchange(iter([b"frame"]), new)) == [b"answer"]
    threads[0].join()
    assert events == ["there"]
    assert server._streams == {"site": new}


def test_a_stream_that_ends_first_leaves_the_new_one_there(monkeypatch):
    monkeypatch.setattr(grpc_wire, "_name_peer", lambda context: "site")
    server = GrpcServer.__new__(GrpcServer)
    server._num_open = Counter()
    old, new, events, threads = MagicMock(), MagicMock(), [], []

    def disconnect(name):
        threads.append(threading.Thread(target=list, args=(server._exchange(iter([b""]), new),)))
        threads[0].start()
        threads[0].join(timeout=0.2)
        events.append("lost")

    connect = lambda name: events.append("there")  # noqa: E731
    server.sessions = make_sessions(connect, disconnect)
    server._lock, server._streams = threading.Lock(), {"site": old}
    server._end("site", old)
    threads[0].join()
    assert events == ["lost", "there"]


def test_a_site_cannot_take_the_streams_of_others(monkeypatch):
    monkeypatch.setattr(grpc_wire, "_name_peer", lambda context: "site")
    server = GrpcServer.__new__(GrpcServer)
    server._lock, server._streams, server._num_open = threading.Lock(), {}, Counter()
    server.sessions = make_sessions(lambda name: None, lambda name: None)
    ends = []
    contexts = [MagicMock() for _ in range(grpc_wire.MAX_STREAMS + 1)]
    for context in contexts:
        context.add_callback = ends.append
        context.abort.side_effect = PermissionError
    for context in contexts[:-1]:
        assert list(server._exchange(iter([b"frame"]), context)) == [b"answer"]
    with pytest.raises(PermissionError):
        list(server._exchange(iter([b"frame"]), contexts[-1]))
    assert "4 streams" in contexts[-1].abort.call_args.args[1]
    for end in ends:
        end()
    assert server._num_open["site"] == 0
