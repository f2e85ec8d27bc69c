"""The dry run of a run file at a site: everything that would stop it, before round 1, at home.

It sends nothing but the agent's usual greeting; what it finds in the data stays on the screen.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hanse.config.application import digest, manifest
from hanse.config.parse import parse
from hanse.config.runfile import RunFile
from hanse.core import canonical
from hanse.data.schema import Schema
from hanse.errors import ConfigError, HanseError
from hanse.names import resolve
from hanse.net.checks import Check, attempt
from hanse.privacy.budget import check
from hanse.sim.ledger import read_ledger
from hanse.sim.population import Sites
from hanse.sim.run import Run
from hanse.sim.station import station_of
from hanse.site.contract import (
    check_batch,
    check_clock,
    check_disk,
    check_policy,
    check_source,
    space_needed,
)
from hanse.site.enrol import dial
from hanse.site.home import SiteHome
from hanse.site.ledger import caps_of, reservation
from hanse.site.roster import read_roster
from hanse.site.verdict import Request, Situation, verdict
from hanse.site.work import is_loopback


def dry_run(home: SiteHome, run_file: Path, sources: Mapping[str, str]) -> list[Check]:
    """Return every check with what it found; the first failure does not hide the next ones."""
    file = parse(run_file)
    rows = [attempt("app", lambda: _app(file))]
    run: Run | None = None
    if rows[-1].ok:
        run = file.load().deployed()
        rows += [*_policy(home, run, sources), *_data(home, file, run, sources)]
        rows.append(attempt("ledger", lambda: _ledger(home, run, sources)))
        rows.append(attempt("roster", lambda: roster(home)))
        rows.append(check_disk(home.folder, space_needed(run.spec)))
    rows.append(attempt("coordinator", lambda: greet(home)))
    return rows


def _app(file: RunFile) -> str:
    run = file.load()
    return f"{len(run.app)} files, digest {digest(manifest(file.folder, file.files))[:16]}…"


def _policy(home: SiteHome, run: Run, sources: Mapping[str, str]) -> list[Check]:
    enrolled, policy = home.enrolled(), home.rules()
    if policy is not None:
        policy = policy.with_sources(sources)
    situation = Situation(
        coordinator=enrolled.known_as("" if policy is None else policy.coordinator),
        roster="" if policy is None else policy.roster,
        installed=canonical.digest(dict(run.app)),
        on_loopback=is_loopback(enrolled.url),
    )
    return check_policy(verdict(policy, Request.of(run.spec, situation)))


def _ledger(home: SiteHome, run: Run, sources: Mapping[str, str]) -> str:
    """Say that what the run would spend fits the caps; BudgetError if it does not."""
    policy = home.rules()
    caps = {} if policy is None else caps_of(policy.with_sources(sources).sources)
    check(read_ledger(home.ledger), reservation("this run", run.spec), caps)
    capped = [name for name in run.spec.sources if name in caps]
    return f"within the cap of {', '.join(capped)}" if capped else "no source of the run has a cap"


def roster(home: SiteHome) -> Check:
    """Compare the roster that was accepted with that which a run submitted now would have."""
    told: Any = dial(home).request("GET", "/v1/roster").json()
    found, policy = read_roster(told["roster"], home.enrolled().coordinator), home.rules()
    if policy is not None and policy.roster == found.digest:
        return Check("roster", True, f"{len(found.rows)} sites, as accepted", "")
    said = f"the roster is {found.digest[:16]}… now, which is not what was accepted here"
    return Check("roster", False, said, "see who has joined or left: hanse site roster accept")


def _data(home: SiteHome, file: RunFile, run: Run, sources: Mapping[str, str]) -> list[Check]:
    site, paths = home.enrolled().name, _paths(home, sources)

    def batch() -> Check:
        function: Any = resolve(file.data, file.folder, "data")
        named = {name: Path(path) for name, path in paths.items()}
        station = station_of(run, run.spec)
        station.population = Sites(function, [site], named, run.seed)
        return check_batch(lambda: station.data(site))

    try:
        rows = [] if file.contract is None else _contract(file, file.contract, paths)
    except HanseError as error:
        rows = [Check("data", False, str(error), error.hint)]
    return [*rows, attempt("model", batch)]


def _contract(file: RunFile, reference: str, paths: Mapping[str, str]) -> list[Check]:
    schema: Any = resolve(reference, file.folder, "contract")
    if not isinstance(schema, Schema):
        raise ConfigError(f"{reference} is no schema", hint="name a hanse.Schema in the app")
    if schema.source not in paths:
        said = f"this site has no source {schema.source}"
        return [Check("data", False, said, f"--source {schema.source}=PATH")]
    return check_source(schema, Path(paths[schema.source]))


def _paths(home: SiteHome, sources: Mapping[str, str]) -> dict[str, str]:
    policy = home.rules()
    if policy is None:
        return dict(sources)
    with_all = policy.with_sources(sources)
    return with_all.sources_for(with_all.sources)


def greet(home: SiteHome) -> Check:
    """Return the row of the coordinator, reached, and this machine's clock beside its."""
    line = dial(home)
    before = time.time()
    told: Any = line.connection.request("GET", "/v1/about").json()
    return check_clock((before + time.time()) / 2 - float(told["time"]))
