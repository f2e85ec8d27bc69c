"""``hanse doctor``, ``fsck``, ``backup``, ``restore``: is it well, is it whole, a copy of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from hanse.cli.places import HomeOption, home
from hanse.cli.screen import Debug, out, plain_table
from hanse.errors import ConfigError
from hanse.net.checks import Check, check_versions

UNWELL = 5
"""Exit status when a row fails."""


def doctor_command(folder: HomeOption = None, debug: Debug = False) -> None:
    """See whether a coordinator or a site can work here; nothing is changed."""
    rows = [check_versions()]
    for kind, place in _places(folder):
        if kind == "coordinator":
            from hanse.coordinator.doctor import doctor
            from hanse.coordinator.home import Home

            rows += doctor(Home(place))
        else:
            from hanse.site.fsck import doctor as site_doctor
            from hanse.site.home import SiteHome

            rows += site_doctor(SiteHome(place))
    _show(rows)


def fsck_command(folder: HomeOption = None, debug: Debug = False) -> None:
    """See whether a coordinator's or a site's folder is whole; nothing is changed.

    A coordinator may run meanwhile; its uploads are looked at only while it does not.
    """
    rows = list[Check]()
    for kind, place in _places(folder):
        if kind == "coordinator":
            from hanse.coordinator.fsck import fsck
            from hanse.coordinator.home import Home

            rows += fsck(Home(place))
        else:
            from hanse.site.fsck import fsck as site_fsck
            from hanse.site.home import SiteHome

            rows += site_fsck(SiteHome(place))
    _show(rows)


def backup_command(
    target: Annotated[Path, typer.Argument(metavar="BACKUP", help="A folder, made for it.")],
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Copy a coordinator, which may run meanwhile, to BACKUP: journal, models, settings, keys.

    No update of a site is in it. Keep it where keys may lie.
    """
    from hanse.coordinator.backup import backup
    from hanse.coordinator.home import Home

    head = backup(Home(home(folder, "coordinator")), target)
    out().print(f"{target}: to event {head.seq} of the journal", soft_wrap=True)


def restore_command(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What hanse backup made.")],
    folder: HomeOption = None,
    database: Annotated[
        str, typer.Option("--database", help="postgresql://…, empty, in the place of SQLite.")
    ] = "",
    debug: Debug = False,
) -> None:
    """Make the coordinator in BACKUP again, in a new folder.

    What came after the backup is lost, and sites and people see that it is.
    """
    from hanse.coordinator.backup import restore
    from hanse.coordinator.home import Home

    place = home(folder, "coordinator")
    head = restore(source, Home(place), database)
    said = f"{place}: as it was at event {head.seq} of its journal\n\n  hanse fsck --home {place}"
    out().print(f"{said}\n  hanse coordinator start --home {place}", soft_wrap=True)


def _places(folder: Path | None) -> list[tuple[str, Path]]:
    """Return (coordinator or site, its folder) of what is in the folder, or in the usual ones."""
    files = {"coordinator": "coordinator.json", "site": "site.json"}
    looked = {kind: home(folder, kind) for kind in files}
    found = [(kind, place) for kind, place in looked.items() if (place / files[kind]).exists()]
    if not found:
        said = " nor in ".join(str(place) for place in dict.fromkeys(looked.values()))
        raise ConfigError(
            f"there is neither a coordinator nor a site in {said}",
            hint="name its folder: --home DIR",
        )
    return found


def _show(rows: Iterable[Check]) -> None:
    rows, table = list(rows), plain_table("check", "", "what was found", "what to do")
    for row in rows:
        cells = (row.name, "ok" if row.ok else "FAILS", row.said, "" if row.ok else row.fix)
        table.add_row(*map(Text, cells))
    out().print(table)
    if not all(row.ok for row in rows):
        raise typer.Exit(UNWELL)
