"""Whether a site's folder is whole, and whether the site can work: nothing is changed."""

from collections.abc import Iterator
from pathlib import Path

from hanse.net.checks import Check, attempt, check_certificate, check_private, check_room
from hanse.net.keys import IdentityKey
from hanse.sim.files import read_tensors
from hanse.sim.ledger import read_ledger
from hanse.site.dry_run import greet, roster
from hanse.site.home import SITE, SiteHome
from hanse.site.kept import KEPT, PROVISIONAL
from hanse.site.releases import check_log

RENEW = "start the agent: it renews by itself while its certificate is good, else join again"


def fsck(home: SiteHome) -> list[Check]:
    """Return a row for each part of the folder; the first failure does not hide the next ones."""
    home.enrolled()
    return [
        check_private(home.folder, SITE, "identity.pem", "tls.pem", "policy.toml"),
        attempt("identity", lambda: f"{IdentityKey.load(home.identity).public[:16]}…"),
        attempt("policy", lambda: _policy(home)),
        attempt("releases", lambda: f"{check_log(home.folder / 'releases.jsonl'):,} have left"),
        attempt("ledger", lambda: _ledger(home)),
        *_memories(home.folder / "runs"),
    ]


def doctor(home: SiteHome) -> list[Check]:
    """Return what else must be so for the site to work: disk, certificate, coordinator, clock."""
    name = home.enrolled().name
    return [
        Check("site", True, f"{name} of {home.enrolled().federation}, {home.enrolled().url}"),
        check_room(home.folder),
        attempt("certificate", lambda: check_certificate("certificate", home.certificate, RENEW)),
        attempt("coordinator", lambda: greet(home)),
        attempt("roster", lambda: roster(home)),
    ]


def _policy(home: SiteHome) -> str | Check:
    found = home.rules()
    if found is None:
        return Check("policy", False, "there is none: every run is refused", "hanse site policy")
    return f"at least {found.minimum_cohort} sites, lets out {', '.join(found.release)}"


def _ledger(home: SiteHome) -> str | Check:
    found = read_ledger(home.ledger)
    if found.is_incomplete:
        fix = "put the newest copy back, if there is one"
        return Check("ledger", False, "entries were lost, and what they spent is unknown", fix)
    debits = sum(len(account.debits) for account in found.accounts.values())
    return f"{len(found.accounts):,} runs, {debits:,} debits, a whole chain"


def _memories(runs: Path) -> Iterator[Check]:
    """Yield a row for each run of which the site keeps something."""
    for folder in sorted(runs.iterdir() if runs.is_dir() else ()):
        files = [folder / name for name in (KEPT, PROVISIONAL) if (folder / name).exists()]
        if files:
            yield attempt(folder.name, lambda files=files: _read(files))


def _read(files: list[Path]) -> str:
    for path in files:
        read_tensors(path)
    return f"{', '.join(path.name for path in files)} can be read"
