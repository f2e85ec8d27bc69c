import itertools
import json
import xml.etree.ElementTree as ElementTree

import pytest
from tests.report import sample
from tests.report.page import check, parse

from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation
from hanse.core.weight import Weight
from hanse.errors import ConfigError
from hanse.privacy import Clip, GaussianNoise
from hanse.report.curves import rounds_svg
from hanse.report.html import write_report
from hanse.report.numerals import interval
from hanse.report.promises import promises, to_json
from hanse.report.section import Section

FILES = ("spec", "result", "environment", "population", "baselines", "promises")


def test_a_report_of_several_seeds_is_whole_and_loads_nothing(tmp_path):
    page = parse(write_report(sample.heart(tmp_path, seeds=5, rounds=10)))
    check(page)
    for heading in (
        "Results at each site", "Curves", "Who took part", "Who holds what", "What travelled",
        *(section.title for section in promises(sample.spec("heart", sample.HOSPITALS, 10, 7))),
        "Hashes, environment, settings",
    ):  # fmt: skip
        assert heading in page.text


def test_the_numbers_of_a_report_are_those_of_the_run(tmp_path):
    page = parse(write_report(sample.heart(tmp_path, seeds=5, rounds=10)))
    told = json.loads((tmp_path / "summary.json").read_text())["table"]
    for site, kind in itertools.product(("cleveland", "va-long-beach"), ("local", "pooled")):
        assert str(interval(told[site][kind]["auc"])) in page.text
    assert "n/a: switzerland (only one class: 37 positives, 0 negatives)" in page.text
    for path in tmp_path.glob("seed-*/result.json"):
        assert json.loads(path.read_text())["model_digest"] in page.text


def test_a_difference_is_called_no_larger_than_the_seeds_show(tmp_path):
    page = parse(write_report(sample.heart(tmp_path, seeds=5, rounds=40)))
    assert "above local only, more than the seed spread" in page.text
    assert "below pooled: smaller than the seed spread, so these runs do not tell" in page.text


def test_one_seed_claims_no_interval(tmp_path):
    page = parse(write_report(sample.heart(tmp_path, seeds=1, rounds=10)))
    check(page)
    assert "±" not in page.text
    assert "the differences carry no interval" in page.text


def test_hostile_names_and_reasons_stay_text(tmp_path):
    page = parse(write_report(sample.trouble(tmp_path)))
    check(page)
    assert sample.HOSTILE in page.text
    assert sample.RUDE in page.text
    assert "<script" not in page.source
    assert "\u202e" not in page.source


def test_what_went_wrong_is_told(tmp_path):
    page = parse(write_report(sample.trouble(tmp_path)))
    assert "The run is not complete: 60 of 80 rounds are recorded." in page.text
    assert "Aborted: rounds 31, 44 (2 reports, 3 needed)." in page.text
    assert "out of range" in page.text
    assert "danzig (not defined)" in page.text


@pytest.mark.parametrize("missing", [[name] for name in FILES] + [list(FILES)])
def test_what_is_missing_is_left_out(tmp_path, missing):
    sample.heart(tmp_path, seeds=1, rounds=3)
    for name in missing:
        (tmp_path / f"{name}.json").unlink()
    check(parse(write_report(tmp_path)))


@pytest.mark.parametrize("kept", ["spec.json", "result.json"])
def test_one_file_is_enough_for_a_report(tmp_path, kept):
    sample.heart(tmp_path, seeds=1, rounds=3)
    for path in tmp_path.iterdir():
        if path.name != kept:
            path.unlink()
    page = parse(write_report(tmp_path))
    check(page)
    assert "Curves" not in page.text
    assert "Who took part" not in page.text
    assert "Who sees what" not in page.text
    assert "nothing is protected from whoever runs it" in page.text


def test_a_report_says_what_explain_said(tmp_path):
    page = parse(write_report(sample.heart(tmp_path, seeds=2, rounds=3)))
    for section in promises(sample.spec("heart", sample.HOSPITALS, 3, 7)):
        for said in (*section.columns, *itertools.chain(*section.rows), *section.notes):
            assert said in page.text


@pytest.mark.parametrize("broken", ["{", "{}", "[1]", '[{"title": "t"}]', "[[]]"])
def test_promises_that_cannot_be_read_are_left_out(tmp_path, broken):
    sample.heart(tmp_path, seeds=1, rounds=2)
    (tmp_path / "promises.json").write_text(broken)
    assert "Who sees what" not in parse(write_report(tmp_path)).text


def test_promises_of_hostile_words_and_odd_shapes_stay_text(tmp_path):
    sample.heart(tmp_path, seeds=1, rounds=2)
    odd = Section(sample.HOSTILE, ("a",), ((), ("b", sample.RUDE, "c")), (sample.HOSTILE,))
    (tmp_path / "promises.json").write_text(json.dumps(to_json([odd])))
    page = parse(write_report(tmp_path))
    check(page)
    assert sample.HOSTILE in page.text
    assert sample.RUDE in page.text


def test_no_run_no_report(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(tmp_path)


def test_a_private_run_tells_no_loss_and_no_norms(tmp_path):
    noisy = Pipeline([Weight(by="uniform", denominator=2.0), Clip(1.0), GaussianNoise(1.1)])
    unseen = Evaluation(release="none")
    described = sample.spec("private", ["a", "b"], 3, 1, pipeline=noisy, evaluation=unseen)
    rows = [sample.row(n, ["a", "b"], train=None, update=None) for n in (1, 2, 3)]
    sample.write(tmp_path, described, rows)
    page = parse(write_report(tmp_path))
    check(page)
    assert "L2 norm of updates" not in page.text
    assert "Curves" not in page.text
    assert "noise of standard deviation 1.1 in each coordinate of the total" in page.text
    assert "The noise (multiplier 1.1, per client and round) protects" in page.text


@pytest.mark.parametrize("classes", [0, 2, 10])
@pytest.mark.parametrize("clients", [1, 61])
def test_every_kind_of_partition_has_a_picture(tmp_path, classes, clients):
    ids = [f"client-{i}" for i in range(clients)]
    names = [str(k) for k in range(classes)]
    parts = [{"id": i, "n": 10 * classes or 7, "counts": [10] * classes} for i in ids]
    population = {"clients": clients, "rows": 70, "classes": names, "sizes": {}, "parts": parts}
    sample.write(tmp_path, sample.spec("r", ids, 1, 1), [], population=population)
    page = parse(write_report(tmp_path))
    check(page)
    assert "Who holds what" in page.text


def test_a_thousand_clients_and_rounds_are_written_fast_and_small(tmp_path):
    sample.crowd(tmp_path, clients=1000, rounds=1000, cohort=1000, baselines=True)
    path = write_report(tmp_path)
    assert path.stat().st_size < 5e6
    check(parse(path))


def test_two_hundred_sites_and_a_thousand_rounds_are_small_too(tmp_path):
    ids = [f"site-{i:03}" for i in range(200)]
    sites = {i: {"auc": 0.5 + k / 1000, "loss": 0.5, "examples": 5} for k, i in enumerate(ids)}
    evaluation = {"pooled": {"auc": 0.6, "loss": 0.5, "examples": 1000}, "sites": sites}
    rows = [sample.row(n, ids, evaluation=evaluation) for n in range(1, 1001)]
    sample.write(tmp_path, sample.spec("r", ids, 1000, 1), rows)
    path = write_report(tmp_path)
    assert path.stat().st_size < 5e6
    assert "median site" in parse(path).text


def test_a_picture_for_a_readme_is_an_svg_file_of_its_own():
    picture = rounds_svg(sample.heart_history(7, 10))
    root = ElementTree.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"AUC", "accuracy", "loss", "all sites", "cleveland"} <= set(texts)


def test_a_picture_of_hostile_names_is_well_formed():
    bad = {'<&"\x07': {"auc": 0.5}}
    row = sample.row(1, ["x"], evaluation={"pooled": {"auc": 0.5}, "sites": bad})
    ElementTree.fromstring(rounds_svg([row]))


def test_a_picture_of_nothing_is_empty():
    ElementTree.fromstring(rounds_svg([]))


def test_a_population_without_numbers_has_no_picture(tmp_path):
    sample.heart(tmp_path, seeds=1, rounds=2)
    (tmp_path / "population.json").write_text('{"clients": [{"id": "a"}, {"id": "b"}]}')
    assert "Who holds what" not in parse(write_report(tmp_path)).text


def test_a_clip_that_never_fired_has_a_sentence_and_no_chart(tmp_path):
    rows = [sample.row(n, ["a"]) for n in (1, 2)]
    sample.write(tmp_path, sample.spec("r", ["a"], 2, 1), rows)
    text = parse(write_report(tmp_path)).text
    assert "The clip at L2 norm 1 shortened 0 of 2 updates (0 %)." in text
    assert "share of updates that the clip shortened" not in text
