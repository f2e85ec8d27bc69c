"""ε by round beside what it bought, and attacks, in the report of a run."""

import json

import pytest
from tests.privacy.test_example_claims import GIVEN, PROMISE, run_file
from tests.report import sample
from tests.report.page import check, parse

from hanse.core.pipeline import Pipeline
from hanse.core.samplers import FixedSize
from hanse.core.spec import Evaluation, Privacy
from hanse.core.weight import Weight
from hanse.privacy import Clip, GaussianNoise
from hanse.privacy.claims import claims
from hanse.privacy.spending import MOST, rounds_of, spent_by
from hanse.report.explain import explain_folder
from hanse.report.folder import AUDITS, open_folder
from hanse.report.html import write_report
from hanse.report.spent import to_json

CENTRAL = Pipeline([Weight(by="uniform", denominator=4.0), Clip(norm=1.0), GaussianNoise(2.0)])
AUDIT = {
    "attack": "canaries", "claimed": 1.5, "delta": 1e-6, "rounds": 10, "lower": 0.4, "power": 3.5,
    "confidence": 0.95, "estimate": 0.9, "low": 0.2, "high": 1.4, "right": 31, "guesses": 50,
    "canaries": 200,
}  # fmt: skip


def central(rounds, **more):
    clients = [f"client-{n}" for n in range(20)]
    given = {
        "pipeline": CENTRAL,
        "privacy": Privacy(1e-6),
        "sampler": FixedSize(4),
        "evaluation": Evaluation(release="none"),
    }
    return sample.spec("central", clients, rounds, 1, **given | more)


def test_each_round_tells_more_up_to_the_claim():
    spec = central(10)
    found = spent_by(spec, rounds_of(10))
    wanted = {(c.observer, c.unit): c.epsilon for c in claims(spec) if c.epsilon is not None}
    assert {(one.claim.observer, one.claim.unit) for one in found} == {*wanted}
    for one in found:
        claim = wanted[one.claim.observer, one.claim.unit]
        assert one.claim.epsilon == claim
        assert list(one.epsilon) == sorted(one.epsilon)
        assert one.epsilon[-1] <= claim.epsilon
        few = spent_by(central(4), (4,))
        same = next(two for two in few if two.claim.observer == one.claim.observer)
        assert one.epsilon[3] >= same.epsilon[0] - 1e-12  # of four rounds, more closely


def test_a_long_run_is_told_at_some_rounds_the_last_one_with_them():
    assert rounds_of(3) == (1, 2, 3)
    many = rounds_of(10 * MOST + 7)
    assert many[-1] == 10 * MOST + 7
    assert len(many) <= MOST


def test_without_delta_or_noise_nothing_is_kept(tmp_path):
    assert to_json(central(3, privacy=None)) == {}
    assert to_json(sample.spec("heart", ["a", "b"], 3, 1)) == {}
    kept = to_json(run_file(tmp_path, GIVEN, PROMISE).sketch)
    assert [told["observer"] for told in kept["told"]] == ["coordinator", "sites", "recipients"]
    assert json.loads(json.dumps(kept)) == kept


@pytest.fixture
def folder(tmp_path):
    sample.heart(tmp_path, seeds=1, rounds=10)
    return next(iter(tmp_path.glob("seed-*")), tmp_path)


def test_the_report_lays_epsilon_beside_the_metric(folder):
    (folder / "privacy.json").write_text(json.dumps(to_json(central(10))))
    page = parse(write_report(folder))
    check(page)
    assert "Privacy, as the rounds went" in page.text
    for text in ("toward sites (neighbours: a client's share and zero in its place)",
                 "toward whoever gets the models", "neighbours replace one client",
                 "the run claims", "ε, client, sites", "ε, client, recipients"):  # fmt: skip
        assert text in page.text, text
    assert 'aria-label="AUC by ε"' in (folder / "report.html").read_text()


def test_observers_who_are_told_the_same_are_one_line(folder, tmp_path):
    kept = to_json(run_file(tmp_path, GIVEN, PROMISE).sketch)
    (folder / "privacy.json").write_text(json.dumps(kept))
    page = parse(write_report(folder))
    assert "ε, example, everybody" in page.text
    assert "for one example toward everybody" in page.text


def test_without_a_metric_there_is_a_table_and_no_curve(folder):
    (folder / "privacy.json").write_text(json.dumps(to_json(central(10))))
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    bare = [{k: v for k, v in row.items() if k not in ("evaluation", "central")} for row in rows]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    page = parse(write_report(folder))
    assert "No metric was measured beside the model" in page.text
    assert " by ε" not in (folder / "report.html").read_text()


def test_without_a_bound_there_is_no_such_section(folder):
    for kept in ("{}", '{"delta": 1e-6, "rounds": [1], "told": [{"epsilon": [null]}]}', "torn {"):
        (folder / "privacy.json").write_text(kept)
        assert "Privacy, as the rounds went" not in parse(write_report(folder)).text


def test_a_folder_is_explained_by_what_it_has_spent_so_far_and_what_it_promised(folder):
    (folder / "privacy.json").write_text(json.dumps(to_json(central(20))))
    first, *promised = explain_folder(open_folder(folder))
    assert first.title == "Privacy after 10 of 20 rounds, at δ = 1e-06"
    assert first.columns[3:] == ("ε so far", "ε at the end")
    by_now, at_last = (float(first.rows[0][column]) for column in (3, 4))
    assert 0 < by_now < at_last
    assert [section.title for section in promised] == [
        section.title for section in open_folder(folder).first.promises
    ]
    (folder / "history.jsonl").write_text("")
    assert explain_folder(open_folder(folder))[0].rows[0][3] == "0"
    (folder / "privacy.json").unlink()
    assert "Privacy after" not in explain_folder(open_folder(folder))[0].title


def test_attacks_are_told_with_claim_power_and_what_they_are_not(folder):
    loose = {**AUDIT, "claimed": None}
    (folder / AUDITS).write_text(f"{json.dumps(AUDIT)}\n{json.dumps(loose)}\n{{torn")
    page = parse(write_report(folder))
    check(page)
    for text in ("200 planted clients, 10 rounds", "ε ≤ 1.50 at δ = 1e-06", "ε ≥ 0.40",
                 "nothing: there is no noise", "31 of 50 guesses were right", "3.50",
                 "ε ≈ 0.90 (0.20 to 1.40)", "No gate"):  # fmt: skip
        assert text in page.text, text
