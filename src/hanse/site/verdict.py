"""Whether a site's policy permits a run: a pure function of the policy and of facts about the run.

It is monotone: a policy with one more restriction never permits more. It holds a coordinator to
what the run's spec says; that the spec is kept is the work of the release gate (numbers) and of the
app's digest (code). What it cannot judge is whether the other sites of a run are honest.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Literal

from hanse.core.canonical import digest
from hanse.core.ledger import UNITS, Unit
from hanse.core.spec import Against, RunSpec
from hanse.privacy.claims import release_of
from hanse.site.policy import KINDS, Kind, Policy, Source


@dataclass(frozen=True, slots=True)
class Situation:
    """What a site knows beside a run's spec.

    ``coordinator``: the identity key that signed the request; ``roster``: digest of the roster that
    the run's sites are taken from; ``installed``: digest of the app folder that the site was
    started with; ``simulated``: the run's secrets are given and not drawn, as ``hanse up`` does;
    ``on_loopback``: coordinator and site are one machine.
    """

    coordinator: str
    roster: str
    installed: str
    simulated: bool = False
    on_loopback: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """What a run asks of a site, as plain facts.

    ``l2``: bound of a share's L2 norm; ``visible``: whether the coordinator sees each update or
    only their sum; ``releases``: all that would leave; ``told``: from whom the run's noise hides
    which units. ``purpose`` is empty where the run names none.
    """

    situation: Situation
    app: str
    sites: int
    l2: float
    visible: Literal["each", "sum"]
    releases: frozenset[Kind]
    measured: Literal["per-site", "sum", "none", "simulation"]
    sources: tuple[str, ...]
    purpose: str = ""
    told: Mapping[Against, Set[Unit]] = field(default_factory=dict[Against, Set[Unit]])

    @staticmethod
    def of(spec: RunSpec, situation: Situation) -> "Request":
        """Return what ``spec`` asks."""
        facts, evaluation = spec.bound.facts, spec.evaluation
        tells = release_of(spec)
        counts = evaluation.every > 0 and evaluation.release in ("per-site", "sum")
        return Request(
            situation=situation,
            app=digest(spec.app),
            sites=len(spec.clients),
            l2=facts.l2,
            visible=facts.visible,
            releases=frozenset(("update", "counts") if counts else ("update",)),
            measured=evaluation.release if evaluation.every else "none",
            sources=spec.sources,
            purpose=spec.purpose,
            told={observer: frozenset(by_unit) for observer, by_unit in tells.items()},
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule that a run breaks: what is so, and what the site's operator would change."""

    rule: str
    said: str
    change: str


def verdict(policy: Policy | None, request: Request) -> list[Refusal]:
    """Return every reason to refuse ``request``; none: the run may start. No policy refuses all."""
    if policy is None:
        return [Refusal("policy", "this site has no policy", "hanse site policy writes one")]
    return [refusal for rule in RULES for refusal in rule(policy, request)]


def _who(policy: Policy, request: Request) -> Iterable[Refusal]:
    asking = request.situation
    if asking.coordinator != policy.coordinator:
        yield Refusal(
            "coordinator",
            f"the coordinator's key is {asking.coordinator[:16]}…, "
            f"the policy's {policy.coordinator[:16]}…",
            "if the coordinator has a new key, compare the six words by phone and join again",
        )
    if not policy.roster:
        yield Refusal("roster", "no roster is accepted yet", "hanse site roster accept")
    elif asking.roster != policy.roster:
        yield Refusal(
            "roster",
            f"the run's sites are of roster {asking.roster[:16]}…, "
            f"and {policy.roster[:16]}… was accepted",
            "see who has joined or left, then hanse site roster accept",
        )


def _app(policy: Policy, request: Request) -> Iterable[Refusal]:
    if request.app != request.situation.installed:
        yield Refusal(
            "app",
            f"the run's app is {request.app[:16]}…, "
            f"and {request.situation.installed[:16]}… is installed here",
            "install the run's app folder after reading it; hanse site status names the file",
        )
    if policy.apps is not None and request.app not in policy.apps:
        yield Refusal(
            "app",
            f"the app {request.app[:16]}… is not among the {len(policy.apps)} of the policy",
            f'read its code, then add "{request.app}" to apps',
        )


def _company(policy: Policy, request: Request) -> Iterable[Refusal]:
    if request.sites < policy.minimum_cohort:
        yield Refusal(
            "minimum_cohort",
            f"the run has {request.sites} sites, the policy wants {policy.minimum_cohort}",
            "lower minimum_cohort: among fewer sites each has a larger part in the model",
        )
    if policy.secure_sum == "required" and request.visible == "each":
        yield Refusal(
            "secure_sum",
            "the coordinator would see this site's update by itself",
            'set secure_sum = "optional", or let the run have a secure sum',
        )


def _bound(policy: Policy, request: Request) -> Iterable[Refusal]:
    largest = policy.largest_clip
    if largest is not None and not request.l2 <= largest:
        does_not = "does not clip" if math.isinf(request.l2) else f"clips to {request.l2:g}"
        yield Refusal(
            "largest_clip",
            f"the run {does_not}, the policy's largest clip is {largest:g}",
            "raise largest_clip, or let the run clip its updates",
        )


def _releases(policy: Policy, request: Request) -> Iterable[Refusal]:
    for kind in KINDS:
        if kind in request.releases and kind not in policy.release:
            yield Refusal(
                "release",
                f"{kind} would leave, and the policy's release has no {kind}",
                f'add "{kind}" to release',
            )


def _sources(policy: Policy, request: Request) -> Iterable[Refusal]:
    for name in request.sources:
        source = policy.sources.get(name)
        if source is None:
            yield Refusal(
                "sources",
                f"the run reads the source {name}, which this site has not",
                f"add [sources.{name}] to the policy, or start with --source {name}=PATH",
            )
        else:
            yield from _source(name, source, request)


def _source(name: str, source: Source, request: Request) -> Iterable[Refusal]:
    if source.path is None:
        yield Refusal(
            "sources",
            f"the policy does not say where the source {name} is",
            f"write path in [sources.{name}], or start with --source {name}=PATH",
        )
    if source.purposes is not None and request.purpose not in source.purposes:
        purpose = f"for {request.purpose}" if request.purpose else "for no purpose that it names"
        yield Refusal(
            "purposes",
            f"the run reads {name} {purpose}; it is for {', '.join(source.purposes) or 'none'}",
            f"add the purpose to [sources.{name}] if the owner of the data agrees",
        )
    cap = source.cap
    if cap is None:
        return
    hidden = request.told.get(cap.against, frozenset())
    if not hidden:
        yield Refusal(
            "max_epsilon",
            f"{name} may spend {cap}, and no noise of the run bounds what it tells there",
            f"leave max_epsilon out of [sources.{name}], if its owner agrees",
        )
    elif not hidden & {*UNITS[: UNITS.index(cap.unit) + 1]}:
        finest = max(hidden, key=UNITS.index)
        yield Refusal(
            "max_epsilon",
            f"{name} may spend {cap}, and the run's noise hides one {finest} only",
            f'write unit = "{finest}" in [sources.{name}], if its owner agrees',
        )


def _floor(policy: Policy, request: Request) -> Iterable[Refusal]:
    """Yield what no policy can permit, and what only a simulation's own policy does."""
    asking = request.situation
    if asking.simulated and not (asking.on_loopback and policy.simulated):
        yield Refusal(
            "simulated",
            "the run's secrets are given, not drawn: whoever made the run knows them",
            "nothing for real data: such runs are for one machine, whose policies hanse up writes",
        )
    if request.measured == "simulation" and not asking.simulated:
        yield Refusal(
            "evaluation",
            'release = "simulation" measures beside the protocol, which only a simulator can',
            "nothing: the run's author sets another [evaluation] release",
        )


RULES: tuple[Callable[[Policy, Request], Iterable[Refusal]], ...] = (
    _who,
    _app,
    _company,
    _bound,
    _releases,
    _sources,
    _floor,
)
