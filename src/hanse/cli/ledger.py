"""``hanse site ledger``: what runs have spent of the privacy of this site's data."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hanse.cli.places import HomeOption, Yes, home
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.core.ledger import UNITS, Ledger, Void
from hanse.errors import ConfigError
from hanse.privacy.budget import Cap, figure
from hanse.sim.ledger import LedgerFile, read_ledger
from hanse.site.home import SiteHome
from hanse.site.ledger import caps_of


def ledger(
    void: Annotated[
        str | None,
        typer.Option(
            "--void", metavar="RUN", help="Give back what RUN, which will not go on, has not used."
        ),
    ] = None,
    loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Go on without entries that the coordinator knows of."),
    ] = False,
    yes: Yes = False,
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Show what runs have spent of the privacy of the data here, beside the policy's caps."""
    place = SiteHome(home(folder, "site"))
    place.enrolled()
    if loss:
        _accept_loss(place, sure=yes)
    elif void is not None:
        give_back(place.ledger, void)
    else:
        _show(place, out())


def _show(place: SiteHome, console: Console) -> None:
    policy = place.rules()
    caps = {} if policy is None else caps_of(policy.sources)
    show(read_ledger(place.ledger), caps, Cap(0.0), console)


def show(found: Ledger, caps: Mapping[str, Cap], usual: Cap, console: Console) -> None:
    """Print what runs have spent; where there is no cap, as ``usual`` counts."""
    runs = plain_table("run", "data", "unit", "debited", "reserved", "state")
    for name, account in found.accounts.items():
        reserved = account.reserved
        units = {unit for by_unit in reserved.tells.values() for unit in by_unit}
        unit = ", ".join(sorted(units, key=UNITS.index)) or "none: no noise"
        cells = (name, ", ".join(reserved.sources), unit, str(len(account.debits)))
        state = "open" if account.is_open else "ended"
        runs.add_row(*map(Text, (*cells, str(reserved.releases), state)))
    console.print(runs)
    console.print(_spent(found, caps, usual))
    if found.is_incomplete:
        err().print("Entries of this ledger were lost: nobody knows what they spent.")


def _spent(found: Ledger, caps: Mapping[str, Cap], usual: Cap) -> Table:
    table = plain_table("data", "toward", "at δ", "spent or reserved", "cap")
    for source, shown in _shown(found, caps, usual):
        cap = caps.get(source)
        told = figure(found.spent(source, shown.unit, shown.against), shown.delta)
        said = "no bound" if told is None else f"ε = {told.epsilon:.4g}"
        most = "none" if cap is None else f"ε = {cap.epsilon:g}"
        table.add_row(*map(Text, (source, shown.toward, f"{shown.delta:g}", said, most)))
    return table


def _shown(found: Ledger, caps: Mapping[str, Cap], usual: Cap) -> Iterator[tuple[str, Cap]]:
    """Yield each data set as its cap counts, or else by each unit that noise on it has hidden."""
    for source in sorted({*found.sources(), *caps}):
        if (cap := caps.get(source)) is not None:
            yield source, cap
            continue
        units = {
            unit
            for account in found.accounts.values()
            if source in account.reserved.sources
            for unit in account.reserved.tells.get(usual.against, ())
        }
        for unit in sorted(units, key=UNITS.index) or [usual.unit]:
            yield source, replace(usual, unit=unit)


def _accept_loss(place: SiteHome, *, sure: bool) -> None:
    from hanse.site.enrol import dial
    from hanse.site.ledger import accept_loss

    if not sure and not typer.confirm(
        "Is there no newer copy of the ledger? From now on no run uses a source that has a cap."
    ):
        err().print("Nothing is changed.")
        raise typer.Exit(1)
    lost = accept_loss(place.ledger, dial(place))
    out().print(f"Noted: entries up to {lost.seq} are lost.")


def give_back(path: Path, run: str) -> None:
    """Make what is left of a run's reservation void; ConfigError for a run that is not there."""
    book = LedgerFile(path)
    try:
        account = book.ledger.accounts.get(run)
        if account is None:
            raise ConfigError(f"{run} is not in the ledger", hint="the ledger's table lists them")
        book.note(Void(run))
    finally:
        book.close()
    left = account.counted - len(account.debits)
    out().print(f"{run}: {left} releases given back.")
