"""What an NVFlare job runs: the server's part and a site's, the same as `serve` and `join`."""

import secrets
import threading
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller, Task
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.fuel.f3.cellnet.fqcn import FQCN

from ..check_data import read_datamodule
from ..engines.remote import Caller
from ..errors import HuscfError, make_printable
from ..trust import Trust
from .halves import Folder
from .join_options import JoinOptions
from .kits import check_roster
from .nvflare_wire import NvflareExchange, NvflareServer
from .progress import LOG, note_in
from .run_config import read_run_config
from .server_run import ServerRun
from .site_device import SiteDevice
from .site_run import SiteRun

#: The task of a site, and the field of it that names the server's cell.
TASK, CELL = "huscf", "cell"
#: Header of what a site returns: why it did not take part.
REASON = "huscf_reason"
#: Folder of the run in the job's at the server, and of halves in a site's workspace.
FOLDER = "huscf"
#: Seconds in which the server's part ends once no site is left, or the run has ended.
_END_S = 30.0


class ServerPart(Controller):
    """Leads the run at NVFlare's server.

    Args:
        roster: Clients by name of a site.
        config: Name of the run's configuration, among those of the app.
    """

    def __init__(self, roster: dict[str, list[int]], config: str = "run.yaml") -> None:
        super().__init__()
        self._roster, self._config = roster, config
        self._run: ServerRun | None = None
        self._fault = ""

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Begin nothing: all is done in `control_flow`."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Let sites that are still there know that it is over."""
        if self._run is not None:
            self._run.sessions.close("NVFlare has ended the job")

    def process_result_of_unknown_task(self, *_: Any) -> None:
        """Leave results aside that belong to no task."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Note that NVFlare has lost a site."""
        if event_type == EventType.CLIENT_DISCONNECTED and self._run is not None:
            name = fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)
            self._run.sessions.disconnect(name)

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run to the end; a run that cannot go on ends the job, with one line."""
        try:
            self._run = self._set_up(fl_ctx)
        except HuscfError as error:
            self.system_panic(str(error), fl_ctx)
            return
        task = Task(
            TASK,
            Shareable({CELL: fl_ctx.get_engine().get_cell().get_fqcn()}),
            result_received_cb=self._note_result,
        )
        leader = threading.Thread(target=self._lead, args=(self._run, task), daemon=True)
        leader.start()
        names = list(self._roster)
        self.broadcast_and_wait(
            task, fl_ctx, names, min_responses=len(names), abort_signal=abort_signal
        )
        if abort_signal.triggered:
            self._run.say(describe_end(self._run))
            return
        if not self._fault:
            leader.join(_END_S)
        if leader.is_alive() and not self._fault:
            self._fault = f"all sites have left at step {self._run.step}, before the run's end"
        if self._fault:
            self.system_panic(self._fault, fl_ctx)

    def _set_up(self, fl_ctx: FLContext) -> ServerRun:
        engine, workspace, job_id = fl_ctx.get_engine(), fl_ctx.get_workspace(), fl_ctx.get_job_id()
        roster = check_roster(self._roster, "of the job")
        clients = {client.name: client for client in engine.get_clients()}
        if missing := [name for name in roster if name not in clients]:
            raise HuscfError(
                f"the job is for {missing[0]}, which is none of NVFlare's sites: {list(clients)}"
            )
        path = Path(workspace.get_app_config_dir(job_id)) / self._config
        config = read_run_config(["--config", str(path)], Trust())
        folder = Path(workspace.get_run_dir(job_id)) / FOLDER
        folder.mkdir(exist_ok=True)
        run = ServerRun(config, roster, folder, None, note_in(folder / LOG, self.logger.info))
        cells = {FQCN.join([clients[name].get_fqcn(), job_id]): name for name in roster}
        NvflareServer(run.sessions, engine.get_cell(), cells)
        return run

    def _lead(self, run: ServerRun, task: Task) -> None:
        """Run, and then wait no longer for sites that are lost, which return no result."""
        if run.config.num_threads:
            torch.set_num_threads(run.config.num_threads)
        try:
            run.run()
        except HuscfError as error:
            self._fault = str(error)
        except BaseException as error:
            self.logger.exception("the server's part has failed")
            self._fault = repr(error)
        finally:
            end = threading.Timer(_END_S, self.cancel_task, [task])
            end.daemon = True
            end.start()

    def _note_result(self, client_task: Any, fl_ctx: FLContext) -> None:
        """Go on without a site that has left; without one that has never joined, nothing begins."""
        name, result = client_task.client.name, client_task.result
        run = self._run
        assert run is not None
        run.sessions.disconnect(name)
        if result.get_return_code() == ReturnCode.OK:
            return
        reason = make_printable(str(result.get_header(REASON) or "its part has failed"))[:300]
        run.say(f"{name}: {reason}")
        if name not in run.roll.joined and not self._fault:
            self._fault = f"{name} could not join: {reason}"
            run.sessions.close(self._fault)


def describe_end(run: ServerRun) -> str:
    """Return what NVFlare has ended, and what is kept of it."""
    saved = Folder(run.folder / "checkpoints").steps()
    kept = f"step {saved[-1]} is saved" if saved else "nothing is saved"
    return (
        f"NVFlare has ended the job at step {run.step}, before the run's end: somebody has aborted "
        f"it, or a site's process has died; {kept}"
    )


class SitePart(Executor):
    """Takes part with the data that `local/<name>.yaml` in the site's workspace names."""

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Take part until the server says goodbye."""
        if task_name != TASK:
            return make_reply(ReturnCode.TASK_UNKNOWN)
        try:
            self.logger.info(self._take_part(shareable, fl_ctx, abort_signal))
        except HuscfError as error:
            self.logger.error(str(error))
            return make_reply(ReturnCode.EXECUTION_EXCEPTION, {REASON: str(error)})
        return make_reply(ReturnCode.OK)

    def _take_part(self, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> str:
        name, workspace = fl_ctx.get_identity_name(), fl_ctx.get_workspace()
        path = Path(workspace.get_site_config_dir()) / f"{name}.yaml"
        if not path.exists():
            raise HuscfError(f"no local/{name}.yaml in {name}'s workspace, which names its data")
        options = JoinOptions.read(path)
        if options.num_threads:
            torch.set_num_threads(options.num_threads)
        exchange = NvflareExchange(
            fl_ctx.get_engine().get_cell(),
            str(shareable[CELL]),
            lambda: bool(abort_signal.triggered),
            on_event=self.logger.info,
        )
        site = SiteRun(
            read_datamodule([path], []),
            options.clients,
            secrets.token_hex(32) if options.secret else None,
            Path(workspace.get_root_dir()) / FOLDER,
            Caller(exchange),
            SiteDevice.read([path], options.calibrate),
            Trust(),
            options.samples,
            self.logger.info,
            options.max_epsilon,
        )
        return site.run()
