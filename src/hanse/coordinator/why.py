"""What a run waits for, or died of, in plain words; computed from its state, never from a log."""

from collections.abc import Callable

from hanse.coordinator.live import LiveRun
from hanse.core import course, rounds
from hanse.core.canonical import Json

AWAY_S = 60.0
Away = Callable[[str], float | None]


def why(live: LiveRun, away_s: Away, *, disk_is_full: bool = False) -> list[str]:
    """Return sentences, the most important first. ``away_s``: how long a site was not heard of."""
    at = live.course
    if at.outcome is not None:
        return _ended(at)
    if disk_is_full:
        return ["the coordinator's disk is full: no run goes on until there is room"]
    if not live.is_started:
        return ["it waits in the queue: other runs are under way"]
    match at.stage:
        case "preparing":
            return [line for site in at.members for line in _preparing(at, site, away_s)]
        case "training":
            assert isinstance(at.opened, rounds.Open)
            return _training(live, at.opened, away_s)
        case "evaluating":
            assert at.scoring is not None
            waiting = [site for site in at.members if at.scoring.is_open(site)]
            said = [_awaited(site, f"counts of round {at.round}", away_s) for site in waiting]
            return said + [f"{s}: no counts: {why}" for s, why in at.scoring.lacking.items()]
        case stage:
            return [f"the coordinator is at work ({stage}, round {at.round})"]


def _ended(at: course.Course) -> list[str]:
    done = f"after {at.round} of {at.spec.rounds} rounds"
    said = {"done": "it is done", "failed": "it failed", "stopped": "it was stopped"}
    first = f"{said[at.outcome or 'done']} {done}" + (f": {at.reason}" if at.reason else "")
    waiting = [s for s, m in at.members.items() if m.is_ready and s not in at.told]
    return [first] + ([f"{', '.join(waiting)}: has not fetched the model yet"] if waiting else [])


def _preparing(at: course.Course, site: str, away_s: Away) -> list[str]:
    member = at.members[site]
    if member.is_ready:
        return []
    if member.reasons:
        return [f"{site} refuses: {reason}" for reason in member.reasons]
    return [_awaited(site, "its answer whether it takes part", away_s)]


def _training(live: LiveRun, opened: rounds.Open, away_s: Away) -> list[str]:
    number = live.course.round + 1
    told = (opened.counted, opened.refused, opened.dropped)
    waiting = [s for s in opened.plan.cohort if not any(s in answered for answered in told)]
    said = [_awaited(site, f"its report for round {number}", away_s) for site in waiting]
    said += [f"round {number} began again: {reason}" for reason in live.course.again]
    said += [f"{site}: refused in round {number}: {w}" for site, w in opened.refused.items()]
    said += [f"{site}: failed in round {number}: {w}" for site, w in opened.dropped.items()]
    if opened.until is not None:
        left = max(opened.until - live.clock.now(), 0)
        said.append(f"the round closes at its deadline, in {left:.0f} s")
    seals = {member.fingerprint for member in live.course.members.values()}
    if len(seals) > 1:
        said.append(_odd_bits(live.course))
    return said


def _odd_bits(at: course.Course) -> str:
    groups: dict[str, list[str]] = {}
    for site, member in at.members.items():
        groups.setdefault(member.fingerprint, []).append(site)
    listed = " and ".join(", ".join(group) for group in groups.values())
    return f"the same bits are not promised between {listed}: their machines or versions differ"


def _awaited(site: str, what: str, away_s: Away) -> str:
    away = away_s(site)
    if away is None:
        return f"it waits for {site}, which is not on line: {what}"
    if away > AWAY_S:
        return f"it waits for {site}, not heard of for {away:.0f} s: {what}"
    return f"it waits for {site}: {what}"


def stage(live: LiveRun) -> str:
    """Return in which stage a run is, by one word."""
    return live.course.stage if live.is_started or live.course.outcome else "queued"


def status(id: str, by: str, live: LiveRun, away_s: Away) -> dict[str, Json]:
    """Return what those who may see a run are told of it in a list."""
    at = live.course
    return {
        "run": id,
        "by": by,
        "spec_hash": at.spec.hash,
        "stage": stage(live),
        "outcome": at.outcome,
        "round": at.round,
        "rounds": at.spec.rounds,
        "sites": list(at.members),
        "model": at.model,
        "best": None if live.best is None else [*live.best],
    }


def members(live: LiveRun, away_s: Away) -> dict[str, Json]:
    """Return how each site of a run stands."""
    at = live.course
    return {
        site: {
            "ready": member.is_ready,
            "fingerprint": member.fingerprint,
            "reasons": list(member.reasons),
            "away_s": away_s(site),
            "finished": site in at.told,
        }
        for site, member in at.members.items()
    }
