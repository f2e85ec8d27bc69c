"""``hanse site ledger``: what runs have spent of the privacy of this site's data."""

from typing import Annotated, Any

import typer
from rich.text import Text

from hanse.cli.places import HomeOption, Yes, home
from hanse.cli.screen import Debug, err, out, plain_table
from hanse.errors import ConfigError

app = typer.Typer(help="What runs have spent of the privacy of the data here.")


@app.callback(invoke_without_command=True)
def ledger(context: typer.Context, folder: HomeOption = None, debug: Debug = False) -> None:
    """Show each run's releases, and what they come to for each data set beside its cap."""
    if context.invoked_subcommand is not None:
        return
    from hanse.privacy.budget import Cap, figure
    from hanse.sim.ledger import read_ledger
    from hanse.site.home import SiteHome
    from hanse.site.ledger import caps_of

    place, console = SiteHome(home(folder, "site")), out()
    place.enrolled()
    found, policy = read_ledger(place.ledger), place.rules()
    runs = plain_table("run", "data", "unit", "debited", "reserved", "state")
    for name, account in found.accounts.items():
        reserved = account.reserved
        unit = reserved.unit if reserved.tells else "none: no noise"
        cells = (name, ", ".join(reserved.sources), unit, str(len(account.debits)))
        state = "open" if account.is_open else "ended"
        runs.add_row(*map(Text, (*cells, str(reserved.releases), state)))
    console.print(runs)
    caps = {} if policy is None else caps_of(policy.sources)
    spent = plain_table("data", "toward", "at δ", "spent or reserved", "cap")
    for source in sorted({*found.sources(), *caps}):
        cap = caps.get(source)
        shown = cap or Cap(0.0)
        told = figure(found.spent(source, shown.unit, shown.against), shown.delta)
        said = "no bound" if told is None else f"ε = {told.epsilon:.4g}"
        most = "none" if cap is None else f"ε = {cap.epsilon:g}"
        spent.add_row(*map(Text, (source, shown.toward, f"{shown.delta:g}", said, most)))
    console.print(spent)
    if found.is_incomplete:
        err().print("Entries of this ledger were lost: nobody knows what they spent.")


@app.command("accept-loss")
def accept_loss(yes: Yes = False, folder: HomeOption = None, debug: Debug = False) -> None:
    """Go on without entries that the coordinator knows of and this ledger lacks.

    What they spent is unknown from then on, so no run uses a source with a cap.
    """
    from hanse.site.enrol import dial
    from hanse.site.home import SiteHome
    from hanse.site.ledger import accept_loss as accept

    place = SiteHome(home(folder, "site"))
    place.enrolled()
    if not yes and not typer.confirm(
        "Is there no newer copy of the ledger? From now on no run uses a source that has a cap."
    ):
        err().print("Nothing is changed.")
        raise typer.Exit(1)
    lost = accept(place.ledger, dial(place))
    out().print(f"Noted: entries up to {lost.seq} are lost.")


@app.command("void")
def void(
    run: Annotated[str, typer.Argument(help="A run that will not go on.")],
    folder: HomeOption = None,
    debug: Debug = False,
) -> None:
    """Give back what a run has reserved and not used; stop the agent before."""
    from hanse.core.ledger import Void
    from hanse.sim.ledger import LedgerFile
    from hanse.site.home import SiteHome

    place = SiteHome(home(folder, "site"))
    place.enrolled()
    book: Any = LedgerFile(place.ledger)
    try:
        account = book.ledger.accounts.get(run)
        if account is None:
            raise ConfigError(
                f"{run} is not in the ledger", hint="hanse site ledger lists the runs"
            )
        book.note(Void(run))
    finally:
        book.close()
    left = account.reserved.releases - len(account.debits)
    out().print(f"{run}: {left if account.is_open else 0} releases given back.")
