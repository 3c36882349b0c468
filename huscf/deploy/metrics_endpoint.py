"""A run's figures for Prometheus, at a port of the server."""

import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import HuscfError

if TYPE_CHECKING:
    from .server_run import ServerRun


class MetricsEndpoint:
    """Answers at http://host:port/metrics while a run goes on.

    Args:
        run: Whose figures.
        port: Where; 0 takes a free one.
        host: Own address at which it listens; "" is all of them. Whoever reaches it can read.

    Raises:
        HuscfError: Where prometheus-client is not installed, or the port is taken.
    """

    def __init__(self, run: "ServerRun", port: int, host: str = "127.0.0.1") -> None:
        client = _find_client()
        registry = client.CollectorRegistry()
        registry.register(_Figures(run))
        try:
            self._server, self._thread = client.start_http_server(port, host, registry)
        except OSError as error:
            raise HuscfError(
                f"sites.metrics_port {port}: cannot listen there: {error.strerror}"
            ) from error
        self.port: int = self._server.server_port

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)


class _Figures:
    """What Prometheus asks for its figures."""

    def __init__(self, run: "ServerRun") -> None:
        self.run = run

    def collect(self) -> Iterator[Any]:
        """Yield the present figures."""
        core = importlib.import_module("prometheus_client.core")
        run, sessions = self.run, self.run.sessions
        present = set(sessions.present())
        yield core.GaugeMetricFamily("huscf_rounds", "Rounds so far", run.num_rounds)
        yield core.GaugeMetricFamily("huscf_steps", "Steps so far", run.step)
        losses = core.GaugeMetricFamily("huscf_loss", "Mean of the last step", labels=["phase"])
        for phase, value in run.report.last_losses.items():
            losses.add_metric([phase], value)
        yield losses
        is_there = core.GaugeMetricFamily("huscf_site_present", "1 or 0", labels=["site"])
        refused = core.CounterMetricFamily("huscf_refused_frames", "Of a site", labels=["site"])
        moved = core.CounterMetricFamily(
            "huscf_site_bytes", "On the network", labels=["site", "direction"]
        )
        for site in run.roster:
            is_there.add_metric([site], site in present)
            refused.add_metric([site], sessions.refused[site])
            for way in ("up", "down"):
                moved.add_metric([site, way], sessions.num_bytes[site, way])
        yield from (is_there, refused, moved)


def _find_client() -> Any:
    try:
        return importlib.import_module("prometheus_client")
    except ImportError as error:
        raise HuscfError(
            "sites.metrics_port needs prometheus-client: pip install 'huscf[prometheus]'"
        ) from error
