"""Site policies: what can be written, and that no restriction ever permits more."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.core.layout import Layout
from hanse.core.ledger import OBSERVERS, UNITS
from hanse.core.pipeline import Pipeline
from hanse.core.samplers import All
from hanse.core.spec import Evaluation, RunSpec
from hanse.core.weight import Weight
from hanse.core.work import LocalPrivacy, LocalTraining
from hanse.errors import ConfigError
from hanse.privacy import Clip
from hanse.site.policy import Policy, Source, accept_roster
from hanse.site.verdict import Request, Situation, verdict

COORDINATOR, ROSTER, APP, OTHER = "ab" * 32, "cd" * 32, "ef" * 32, "01" * 32
SITUATION = Situation(COORDINATOR, ROSTER, APP)
POLICY = Policy(COORDINATOR, ROSTER, sources={"heart": Source("/data/heart.csv")})
REQUEST = Request(
    situation=SITUATION,
    app=APP,
    sites=4,
    l2=1.0,
    visible="each",
    releases=frozenset({"update", "counts"}),
    measured="per-site",
    sources=("heart",),
    purpose="cardio",
)


# --- what is written


def test_what_join_writes_is_a_whole_policy_that_says_what_it_was():
    text = Policy(COORDINATOR).text()
    assert Policy.parse(text) == Policy(COORDINATOR)
    for key in ("apps", "minimum_cohort", "secure_sum", "largest_clip", "release", "max_epsilon"):
        assert re.search(rf"^#? ?{key} = ", text, re.MULTILINE), key


names = st.text(max_size=8).filter(str)
SOURCES = st.builds(
    Source,
    st.none() | names,
    st.none() | st.lists(names, max_size=2).map(tuple),
    st.none() | st.floats(0.1, 10),
).flatmap(
    lambda known: (
        st.just(known)
        if known.max_epsilon is None
        else st.builds(
            partial(replace, known),
            max_delta=st.none() | st.floats(1e-9, 0.1),
            unit=st.none() | st.sampled_from(UNITS),
            against=st.none() | st.sampled_from(OBSERVERS),
        )
    )
)
POLICIES = st.builds(
    Policy,
    st.sampled_from([COORDINATOR, OTHER]),
    st.sampled_from([ROSTER, OTHER, ""]),
    st.sampled_from([None, (), (APP,), (APP, OTHER), (OTHER,)]),
    st.integers(1, 5),
    st.sampled_from(["required", "optional"]),
    st.none() | st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([60.0, 3600.5]),
    st.sampled_from([(), ("update",), ("counts",), ("update", "counts", "reasons")]),
    st.dictionaries(st.sampled_from(["heart", "lung"]), SOURCES),
)


@given(POLICIES)
def test_every_policy_can_be_written_and_read_again(policy):
    assert Policy.parse(policy.text()) == policy


HEAD = f'version = 1\ncoordinator = "{COORDINATOR}"\n'
WRONG = {
    "a key in the wrong letters": ("minimum_cohrt = 3", 'did you mean "minimum_cohort"?'),
    "a key of a source": ("[sources.heart]\npurpose = []", 'did you mean "purposes"?'),
    "a clip of text": ('largest_clip = "1"', "is not a number above 0"),
    "a clip of nothing": ("largest_clip = 0", "is not a number above 0"),
    "a clip without end": ("largest_clip = inf", "is not a number above 0"),
    "a clip that is none": ("largest_clip = nan", "is not a number above 0"),
    "no sites": ("minimum_cohort = 0", "is not a whole number from 1"),
    "true sites": ("minimum_cohort = true", "is not a whole number from 1"),
    "any app": ('apps = "any"', 'is not "installed" or a list'),
    "a short digest": ('apps = ["abc"]', 'is not "installed" or a list'),
    "a release of data": ('release = ["rows"]', 'is not a list of "update"'),
    "a secure sum of maybe": ("secure_sum = false", 'is not "required" or "optional"'),
    "a roster of words": ('roster = "lusab"', "is not a digest"),
    "sources that are no table": ("sources = 3", "is not a table"),
    "a source that is no table": ("[sources]\nheart = 3", "is not a table"),
    "a source without a name": ('[sources."a b"]', "names no source"),
    "a path of nothing": ('[sources.heart]\npath = ""', "is not a path"),
    "no TOML": ("release = [", "is not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_policy_cannot_mean_is_named(case):
    text, says = WRONG[case]
    with pytest.raises(ConfigError, match=re.escape(says)):
        Policy.parse(HEAD + text)


@pytest.mark.parametrize("text", ["", "version = 2", 'version = "1"', "version = 1"])
def test_a_policy_names_its_version_and_its_coordinator(text):
    with pytest.raises(ConfigError, match=r"version|coordinator"):
        Policy.parse(text)


def test_the_file_is_its_owners_alone_and_is_not_overwritten(tmp_path):
    path = tmp_path / "policy.toml"
    POLICY.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Policy.read(path) == POLICY
    with pytest.raises(ConfigError, match="is there already"):
        POLICY.write(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        Policy.read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        Policy.read(tmp_path / "none")


def test_accepting_a_roster_changes_one_line_and_keeps_the_owners_words(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(
        f"# mine\n{HEAD}\n# why\nroster = \"\"  # none\n[sources.heart]\npath = 'roster'\n"
    )
    path.chmod(0o600)
    before = path.read_text()
    accept_roster(path, ROSTER)
    assert path.read_text() == before.replace('roster = ""', f'roster = "{ROSTER}"')
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_roster_is_added_where_the_policy_has_none(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(HEAD)
    path.chmod(0o600)
    accept_roster(path, ROSTER)
    assert Policy.read(path) == Policy(COORDINATOR, ROSTER)
    path.write_text(HEAD + 'roster = """\n"""\n')
    with pytest.raises(ConfigError, match="is not one line"):
        accept_roster(path, ROSTER)


def test_a_policy_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_bytes(b"\xff")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not UTF-8"):
        Policy.read(path)


def test_a_source_of_the_command_line_joins_those_of_the_policy():
    both = POLICY.with_sources({"lung": "/data/lung.csv", "heart": "/data/heart.csv"})
    assert both.sources["lung"] == Source("/data/lung.csv")
    assert both.sources_for(["lung", "kidney"]) == {"lung": "/data/lung.csv"}
    capped = replace(POLICY, sources={"heart": Source(None, ("cardio",))})
    assert capped.with_sources({"heart": "/h"}).sources["heart"] == Source("/h", ("cardio",))
    with pytest.raises(ConfigError, match="but the policy says /data/heart"):
        POLICY.with_sources({"heart": "/elsewhere"})


# --- what it means


def rules(policy: Policy | None, request: Request) -> set[str]:
    return {refusal.rule for refusal in verdict(policy, request)}


def test_a_run_within_the_policy_is_not_refused():
    assert verdict(POLICY, REQUEST) == []


def test_no_policy_refuses():
    assert rules(None, REQUEST) == {"policy"}


def at(**changes) -> Request:
    return replace(REQUEST, situation=replace(SITUATION, **changes))


def source(**changes) -> Policy:
    return replace(POLICY, sources={"heart": replace(POLICY.sources["heart"], **changes)})


ALL = {key: {"client"} for key in OBSERVERS}
CENTRAL = {key: {"client"} for key in OBSERVERS[1:]}
TRAINED = {key: {"example"} for key in OBSERVERS}
NEARLY = APP[:-1] + ("0" if APP[-1] != "0" else "1")
BROKEN = {
    "another coordinator": (POLICY, at(coordinator=OTHER), "coordinator"),
    "another roster": (POLICY, at(roster=OTHER), "roster"),
    "no roster accepted": (replace(POLICY, roster=""), REQUEST, "roster"),
    "no roster on either side": (replace(POLICY, roster=""), at(roster=""), "roster"),
    "an app that is not installed": (POLICY, replace(REQUEST, app=OTHER), "app"),
    "an app that is listed and not installed": (
        replace(POLICY, apps=(OTHER,)), replace(REQUEST, app=OTHER), "app"
    ),
    "an app that is installed and not listed": (replace(POLICY, apps=(OTHER,)), REQUEST, "app"),
    "too few sites": (POLICY, replace(REQUEST, sites=1), "minimum_cohort"),
    "a sum in the clear": (replace(POLICY, secure_sum="required"), REQUEST, "secure_sum"),
    "an app that differs in its last digit": (
        replace(POLICY, apps=(APP,)), replace(at(installed=NEARLY), app=NEARLY), "app"
    ),
    "no clip": (replace(POLICY, largest_clip=5.0), replace(REQUEST, l2=math.inf), "largest_clip"),
    "a clip too large": (replace(POLICY, largest_clip=0.5), REQUEST, "largest_clip"),
    "a clip that is no number": (
        replace(POLICY, largest_clip=5.0), replace(REQUEST, l2=math.nan), "largest_clip"
    ),
    "counts": (replace(POLICY, release=("update",)), REQUEST, "release"),
    "nothing may leave": (replace(POLICY, release=()), REQUEST, "release"),
    "a source that is not here": (POLICY, replace(REQUEST, sources=("lung",)), "sources"),
    "a source without a path": (source(path=None), REQUEST, "sources"),
    "another purpose": (source(purposes=("oncology",)), REQUEST, "purposes"),
    "no purpose": (source(purposes=("cardio",)), replace(REQUEST, purpose=""), "purposes"),
    "no purpose is allowed": (source(purposes=()), REQUEST, "purposes"),
    "no ε under a cap": (source(max_epsilon=6.0), REQUEST, "max_epsilon"),
    "ε toward others under a cap": (
        source(max_epsilon=6.0), replace(REQUEST, told=CENTRAL), "max_epsilon"
    ),
    "ε of a finer unit under a cap": (
        source(max_epsilon=6.0), replace(REQUEST, told=TRAINED), "max_epsilon"
    ),
    "given secrets across machines": (POLICY, at(simulated=True), "simulated"),
    "metrics beside the protocol": (POLICY, replace(REQUEST, measured="simulation"), "evaluation"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_run_that_breaks_a_rule_is_refused_by_its_name_with_what_to_change(case):
    policy, request, rule = BROKEN[case]
    refusals = verdict(policy, request)
    assert rule in {refusal.rule for refusal in refusals}
    assert all(refusal.said and refusal.change for refusal in refusals)


def test_every_reason_is_listed_at_once():
    request = replace(at(coordinator=OTHER, roster=OTHER), sites=1, app=OTHER, sources=("lung",))
    assert rules(POLICY, request) >= {"coordinator", "roster", "minimum_cohort", "app", "sources"}


def test_a_simulation_on_one_machine_may_have_noise_and_measure_beside_the_protocol():
    asked = at(simulated=True, on_loopback=True)
    request = replace(asked, told=ALL, measured="simulation")
    assert verdict(replace(POLICY, simulated=True), request) == []
    assert rules(POLICY, request) == {"simulated"}, "an address may be a tunnel's"
    far = replace(asked, situation=replace(asked.situation, on_loopback=False))
    assert rules(replace(POLICY, simulated=True), far) == {"simulated"}


def stricter(policy: Policy) -> list[Policy]:
    """Return ``policy`` with one more restriction each."""
    found = [
        replace(policy, roster=""),
        replace(policy, apps=(policy.apps or ())[1:]),
        replace(policy, minimum_cohort=policy.minimum_cohort + 1),
        replace(policy, secure_sum="required"),
        replace(policy, largest_clip=(policy.largest_clip or 2.0) / 2),
        replace(policy, release=policy.release[1:]),
        replace(policy, sources={}),
    ]
    for name, known in policy.sources.items():
        for less in (
            replace(known, purposes=(known.purposes or ())[1:]),
            replace(known, max_epsilon=(known.max_epsilon or 4.0) / 2),
        ):
            found.append(replace(policy, sources={**policy.sources, name: less}))
    return found


REQUESTS = st.builds(
    Request,
    st.builds(
        Situation,
        st.sampled_from([COORDINATOR, OTHER]),
        st.sampled_from([ROSTER, OTHER, ""]),
        st.sampled_from([APP, OTHER]),
        st.booleans(),
        st.booleans(),
    ),
    st.sampled_from([APP, OTHER]),
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, math.inf]),
    st.sampled_from(["each", "sum"]),
    st.sampled_from([frozenset({"update"}), frozenset({"update", "counts"})]),
    st.sampled_from(["per-site", "sum", "none", "simulation"]),
    st.sampled_from([(), ("heart",), ("heart", "lung")]),
    st.sampled_from(["", "cardio"]),
    st.sampled_from([{}, ALL, CENTRAL, TRAINED]),
)


@given(POLICIES, REQUESTS)
def test_one_more_restriction_never_permits_more(policy, request):
    broken = rules(policy, request)
    for other in stricter(policy):
        assert rules(other, request) >= broken - {"purposes", "max_epsilon"}
        assert not broken or rules(other, request)


@given(st.integers(0, 8), st.integers(0, 8))
def test_restrictions_in_a_row_never_turn_a_refusal_into_a_yes(one, two):
    policy = POLICY
    for choice in (one, two):
        options = stricter(policy)
        policy = options[choice % len(options)]
    assert verdict(policy, replace(REQUEST, sites=1))


def test_the_facts_of_a_run_are_those_of_its_spec():
    spec = RunSpec(
        name="heart",
        task="app:task",
        data="app:data",
        clients=("a", "b", "c"),
        rounds=2,
        seed=1,
        strategy={"name": "fedavg"},
        sampler=All(),
        local=LocalTraining(),
        pipeline=Pipeline([Clip(2.0)]),
        layout=Layout.build("float32", [("w", (4,), "trainable")]),
        training=(),
        evaluation_scalars=(),
        evaluation=Evaluation(release="none"),
        sources=("heart",),
        purpose="cardio",
    )
    request = Request.of(spec, SITUATION)
    assert (request.sites, request.visible, request.told) == (3, "each", {})
    hidden = LocalTraining(steps=9, privacy=LocalPrivacy(1.0, 1.1, 0.1))
    uniform = Pipeline([Weight(by="uniform"), Clip(2.0)])
    told = Request.of(replace(spec, local=hidden, pipeline=uniform), SITUATION).told
    assert told == TRAINED
    assert request.l2 == spec.bound.facts.l2
    assert (request.sources, request.purpose) == (("heart",), "cardio")
    assert request.releases == {"update"}
    told = Request.of(replace(spec, evaluation=Evaluation()), SITUATION)
    assert told.releases == {"update", "counts"}
    never = Request.of(replace(spec, evaluation=Evaluation(every=0)), SITUATION)
    assert (never.releases, never.measured) == ({"update"}, "none")
