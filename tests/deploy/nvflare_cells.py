"""Cells of NVFlare's in one process: what a job's processes have, without starting them."""

import gc
import socket

from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.f3.cellnet.core_cell import CoreCell
from nvflare.fuel.f3.stats_pool import StatsPoolManager

from huscf.deploy.nvflare_wire import NvflareExchange, NvflareServer


class NvflareNetwork(NvflareServer):
    """A cell of the server and one of each site."""

    def __init__(self, sessions, kit=None, port=0):
        # Of runs before: a name goes once in a process.
        CoreCell.ALL_CELLS.clear()
        StatsPoolManager.pools.clear()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.cells = {name: self.start(name) for name in ("server", *sessions.roster)}
        super().__init__(sessions, self.cells["server"], {name: name for name in sessions.roster})

    def start(self, name):
        cell = Cell(
            fqcn=name, root_url=f"tcp://127.0.0.1:{self.port}", secure=False, credentials={}
        )
        cell.start()
        return cell

    def dial(self, name, say=print, **options):
        return NvflareExchange(self.cells[name], "server", patience_s=30.0, on_event=say, **options)

    def stop(self, grace_s=0.0):
        for cell in reversed(self.cells.values()):
            cell.stop()
        # NVFlare leaves the socket open at which its server's cell listens.
        for one in [thing for thing in gc.get_objects() if type(thing) is socket.socket]:
            is_open = one.family == socket.AF_INET and one.fileno() >= 0
            if is_open and one.getsockname()[1] == self.port:
                one.close()
