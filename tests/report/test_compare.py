import json

import pytest
from tests.report.page import check, parse
from tests.report.sample import heart

from hanse.errors import ConfigError
from hanse.report.compare import compare, write_comparison


def change(folder, key, value):
    for path in folder.rglob("spec.json"):
        described = json.loads(path.read_text())
        described[key] = value
        path.write_text(json.dumps(described))


@pytest.fixture
def two(tmp_path):
    one, other = heart(tmp_path / "one", 3, 4), heart(tmp_path / "other", 3, 5)
    change(other, "pipeline", [{"step": "clip", "norm": 2.0}])
    return [one, other]


def test_only_settings_that_differ_are_told(two):
    found = compare(two)
    assert found.names == ("one", "other")
    assert found.differing == {
        "rounds": ["4", "5"],
        "pipeline.weight.by": ["examples", "–"],
        "pipeline.weight.cap": ["300", "–"],
        "pipeline.weight.denominator": ["observed", "–"],
        "pipeline.clip.norm": ["1", "2"],
    }


def test_final_metrics_stand_side_by_side_with_differences_by_seed(two):
    found = compare(two)
    finals = [i.mean for i in found.metrics["auc"]]
    assert found.gaps["auc"][0] is None
    assert found.gaps["auc"][1].mean == pytest.approx(finals[1] - finals[0])
    rows = {name: cells for name, *cells in found.rows()}
    assert rows["seeds"] == ["7–9", "7–9"]
    assert rows["AUC"][0] == str(found.metrics["auc"][0])
    assert rows["AUC, less the first"][0] == "–"


def test_the_same_run_twice_is_the_same_model(tmp_path):
    one = heart(tmp_path / "one", 1, 3)
    found = compare([one, one])
    assert found.is_same_model
    assert found.settings.rows == ()
    assert found.settings.nothing == "All settings are the same."
    assert len(set(found.names)) == 2


def test_runs_under_other_seeds_have_no_paired_difference(tmp_path):
    found = compare([heart(tmp_path / "one", 2, 3), heart(tmp_path / "other", 3, 3)])
    assert found.gaps["auc"] == [None, None]


def test_one_run_cannot_be_compared(tmp_path):
    with pytest.raises(ConfigError, match="nothing to be compared with"):
        compare([heart(tmp_path, 1, 2)])


def test_the_page_has_the_curves_of_all_runs(two, tmp_path):
    page = parse(write_comparison(two, tmp_path / "comparison.html"))
    check(page)
    assert page.classes.count("series c1") == page.classes.count("series c2") == 3
    assert "pipeline.clip.norm" in page.text
