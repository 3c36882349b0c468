"""The network: one gRPC stream per site, which dials out, with mutual TLS."""

import contextlib
import queue
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from ..engines.remote import Sessions
from ..errors import HuscfError
from .exchange import ANSWER_S, MAX_FRAME, NoAnswer, PatientExchange
from .kits import Tls, read_name

METHOD = "/huscf.Sites/Exchange"
#: Streams that a site may have open at once.
MAX_STREAMS = 4
#: What TLS says of a certificate that no patience makes good; the second where two authorities
#: have one name, as those of all kits.
_FOREIGN = ("CERTIFICATE_VERIFY_FAILED", "BAD_SIGNATURE")

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class GrpcServer:
    """Takes the streams of sites, and knows by its certificate whose a stream is.

    Args:
        sessions: Answers frames.
        tls: The server's kit.
        listen: Host and port; port 0 takes a free one.

    Attributes:
        port: Where it listens.

    Raises:
        HuscfError: Where it cannot listen there.
    """

    def __init__(self, sessions: Sessions, tls: Tls, listen: str) -> None:
        self.sessions = sessions
        self._streams: dict[str, Any] = {}
        self._num_open: Counter[str] = Counter()
        self._lock = threading.Lock()
        # A stream that is displaced still has its thread for a while. No site takes another's.
        workers = MAX_STREAMS * len(sessions.roster) + 4
        self._server = grpc.server(ThreadPoolExecutor(workers), options=_OPTIONS)
        service, _, name = METHOD.removeprefix("/").partition("/")
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)
        handlers = grpc.method_handlers_generic_handler(service, {name: handler})
        self._server.add_generic_rpc_handlers((handlers,))
        credentials = grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)], tls.ca, require_client_auth=True
        )
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise HuscfError(f"--listen {listen}: must be host:port, such as 0.0.0.0:8443")
        try:
            self.port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            reason = _find_reason(host.strip("[]"), int(port))
            raise HuscfError(f"--listen {listen}: cannot listen there ({reason})") from error
        self._server.start()

    def stop(self, grace_s: float = 1.0) -> None:
        """End all streams."""
        self._server.stop(grace_s).wait()

    def _exchange(self, frames: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        name, is_current = _name_peer(context), False
        try:
            self.sessions.check_known(name)
        except HuscfError as error:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        with self._lock:
            self._num_open[name] += 1
        # A stream can end while its thread waits for something to happen.
        context.add_callback(lambda: self._end(name, context))
        if self._num_open[name] > MAX_STREAMS:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{name} has {MAX_STREAMS} streams")
        with contextlib.suppress(grpc.RpcError):
            for data in frames:
                is_current = is_current or self._take_over(name, context, data)
                yield self.sessions.handle(name, data)

    def _take_over(self, name: str, context: grpc.ServicerContext, data: bytes) -> bool:
        """Let a stream be its site's, if the frame is of the site's newest process.

        The stream before is that of a process that is displaced, which hears so as its next
        answer, or a broken one of the same process, which is ended.
        """
        whose = self.sessions.tell_process(name, data)
        if whose is None:
            return False
        with self._lock:  # or the end of the stream before would be taken for this one's
            if whose == "present":
                self.sessions.connect(name)
            before, self._streams[name] = self._streams.get(name), context
        if before is not None and whose == "present":
            before.cancel()
        return True

    def _end(self, name: str, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._num_open[name] -= 1
            if self._streams.get(name) is not context:
                return
            del self._streams[name]
            self.sessions.disconnect(name)


class GrpcExchange(PatientExchange):
    """A site's stream to the server; it dials again where the stream breaks.

    Args:
        address: Host and port of the server.
        tls: The site's kit.
        patience_s: It gives up where the server cannot be reached for so long.
        on_event: Is told of what happens, in a few words.
    """

    def __init__(
        self,
        address: str,
        tls: Tls,
        patience_s: float = 600.0,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        super().__init__(f"server {address}", patience_s, on_event)
        self.address = address
        self._credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
        self._stream: _Stream | None = None

    def exchange(self, data: bytes) -> bytes:
        """Carry a frame once, over the stream that there is or a new one."""
        try:
            if self._stream is None:
                self._stream = _Stream(self.address, self._credentials)
            return self._stream.exchange(data)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                self.close()
                raise HuscfError(f"{self.server}: {error.details()}") from error
            if any(reason in str(error.details()) for reason in _FOREIGN):
                self.close()
                raise HuscfError(
                    f"{self.server}: TLS refused: its certificate has expired, or is not of the "
                    "authority of this site's kit: get the kit that was made with the server's"
                ) from error
            raise NoAnswer(_explain(error)) from error

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class _Stream:
    """One stream; answers come in the order of frames."""

    def __init__(self, address: str, credentials: Any) -> None:
        self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        self._out: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # A server that answers what was not asked waits, and fills no memory.
        self._in: queue.Queue[bytes | Exception] = queue.Queue(maxsize=2)
        self._call = self._channel.stream_stream(METHOD)(iter(self._out.get, None))
        threading.Thread(target=self._receive, daemon=True).start()

    def exchange(self, data: bytes) -> bytes:
        self._out.put(data)
        try:
            answer = self._in.get(timeout=ANSWER_S)
        except queue.Empty:
            raise NoAnswer("no answer") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._out.put(None)
        self._call.cancel()
        self._channel.close()

    def _receive(self) -> None:
        try:
            for answer in self._call:
                self._in.put(answer)
            self._in.put(NoAnswer("no answer"))  # the server has ended the stream
        except grpc.RpcError as error:
            self._in.put(error)


def _find_reason(host: str, port: int) -> str:
    """Return why the system lets nobody listen there, which gRPC does not say."""
    try:
        for family, kind, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as tried:
                tried.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return "the system does not say why"


def _name_peer(context: grpc.ServicerContext) -> str:
    """Return the name in the certificate that TLS has checked."""
    certificate = context.auth_context().get("x509_pem_cert", [b""])[0]
    try:
        return read_name(certificate)
    except (ValueError, IndexError):
        return ""


def _explain(error: grpc.RpcError) -> str:
    """Return in a few words why there is no stream."""
    details = " ".join(str(error.details()).split())
    if "handshak" in details.lower():
        return f"TLS refused: {details:.200}"
    return details[:200] or error.code().name
