"""A coordinator that runs: its parts are opened, served over TLS, and closed again."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hanse.coordinator.access import Desk
from hanse.coordinator.bell import Bell
from hanse.coordinator.database import is_of_disk
from hanse.coordinator.home import CERTIFICATE, IDENTITY, Home
from hanse.coordinator.journal import fail_stop
from hanse.coordinator.office import Office
from hanse.coordinator.reserve import Reserve
from hanse.coordinator.routes import router
from hanse.coordinator.runs import Runs
from hanse.coordinator.spool import Spool
from hanse.coordinator.table import TABLE
from hanse.errors import ConfigError
from hanse.log import Event, Line, log
from hanse.net.authority import Authority, certificate_expiry, server_context
from hanse.net.keys import IdentityKey, write_private
from hanse.net.server import Server

DAY = timedelta(hours=24)
RENEWED_EVERY_S, SEEN_EVERY_S = 600, 1


def serve(home: Home, *, port: int | None = None, ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT. ``ready`` is called when connections are accepted.

    Raises ConfigError for a folder without a coordinator, or an address that cannot be had. A disk
    that fails ends the process, at the start too.
    """
    settings = home.settings()
    with ExitStack() as stack, _ended_by_disk():
        reserve = Reserve(home.folder)
        reserve.look()
        authority, bell = Authority.load(home.folder), Bell()
        certificate = _certificate(home.folder, authority, settings.hosts)
        context = server_context(certificate, None, home.folder / "authority.pem")
        journal = home.journal(settings, on_failure=fail_stop)
        stack.callback(journal.close)
        spool = Spool(home.folder / "spool")
        stack.callback(spool.close)
        runs = Runs(
            *(journal, home.folder / "blobs", spool, reserve, bell.ring),
            parallel=settings.parallel,
            simulated=settings.simulated,
        )
        stack.callback(runs.close)
        key = IdentityKey.load(home.folder / IDENTITY)
        office = Office(
            settings, key, authority, journal, runs, bell, Desk(key.public), home.folder
        )
        server = Server(
            router(TABLE, office),
            settings.listen,
            settings.port if port is None else port,
            context,
            around=lambda: _tended(office, server),
            on_stop=bell.close,
        )

        def listening() -> None:
            log(Line(Event.STARTED, name=settings.name, port=server.port, pid=os.getpid()))
            ready(server)

        server.run(listening)
        log(Line(Event.STOPPED, name=settings.name))


@contextmanager
def _ended_by_disk() -> Generator[None]:
    """End the process when the disk fails, or is full: whoever supervises starts it again."""
    try:
        yield
    except OSError as error:
        if is_of_disk(error):
            fail_stop(error)
        raise
    except ConfigError as error:
        if is_of_disk(error.__cause__):
            fail_stop(OSError(str(error)))
        raise


def _certificate(folder: Path, authority: Authority, hosts: tuple[str, ...]) -> Path:
    """Return a file with a fresh server certificate and its key."""
    key, certificate = authority.issue_server(list(hosts), datetime.now(UTC), DAY)
    path = folder / CERTIFICATE
    write_private(path, (certificate + key).encode(), replace=True)
    return path


@asynccontextmanager
async def _tended(office: Office, server: Server) -> AsyncGenerator[None]:
    """See to certificate and disk as long as the server serves."""
    tasks = [asyncio.ensure_future(_renew(office, server)), asyncio.ensure_future(_see(office))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _renew(office: Office, server: Server) -> None:
    """Renew the server's certificate at half its life."""
    while True:
        await asyncio.sleep(RENEWED_EVERY_S)
        current = (office.folder / CERTIFICATE).read_text()
        if certificate_expiry(current) - datetime.now(UTC) < DAY / 2:
            path = _certificate(office.folder, office.authority, office.settings.hosts)
            server.reload(path, path)
            log(Line(Event.CERTIFICATE_RENEWED))


async def _see(office: Office) -> None:
    """See whether the disk is full, and journal and tell when that has changed."""
    reserve = office.runs.reserve
    while True:
        try:
            is_held = await asyncio.to_thread(reserve.look)
        except OSError as error:
            fail_stop(error)
        if is_held == office.registry.disk_is_full:
            office.note("disk_freed" if is_held else "disk_full", {"free": reserve.free})
            office.bell.ring(None)
        await asyncio.sleep(SEEN_EVERY_S)
