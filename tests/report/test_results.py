import json

import pytest
from tests.report.sample import crowd, heart, row, spec, write

from hanse.report.folder import open_folder
from hanse.report.results import mean_of_sites, paired, tables

SITES = {"a": [0.7, 0.8, 0.9], "b": [0.5, 0.6, 0.6]}  # local, federated, pooled


def seed(folder, number, shift=0.0, missing=()):
    """A seed with the numbers of SITES; sites in ``missing`` have no AUC."""
    kinds = {
        kind: {
            site: {"auc": None if site in missing else values[i] + shift * i, "examples": 10}
            for site, values in SITES.items()
        }
        for i, kind in enumerate(("local", "federated", "pooled"))
    }
    for site in missing:
        kinds["local"][site]["undefined"] = {"auc": "only one class"}
    sites = kinds["federated"]
    evaluation = {"pooled": {"auc": 0.75, "examples": 20}, "sites": sites}
    described = spec("r", SITES, 1, number, metrics=["auc"])
    write(folder, described, [row(1, ["a", "b"], evaluation=evaluation)], baselines=kinds)


def test_sites_have_a_value_per_way_of_training_and_a_mean(tmp_path):
    seed(tmp_path, 1)
    found = tables(open_folder(tmp_path))[0]
    assert found.kinds == ["local", "federated", "pooled"]
    texts = {r.name: [str(r.cells[k]) for k in found.kinds] for r in found.rows}
    assert texts == {
        "a": ["0.700", "0.800", "0.900"],
        "b": ["0.500", "0.600", "0.600"],
        "mean of sites": ["0.600", "0.700", "0.750"],
    }
    assert [r.gain_text for r in found.rows] == ["+0.100", "+0.100", "+0.100"]
    assert [r.examples for r in found.rows] == [10, 10, None]


def test_differences_are_paired_by_seed(tmp_path):
    for number, shift in ((1, 0.0), (2, 0.02)):
        seed(tmp_path / f"seed-{number}", number, shift)
    gain = paired(open_folder(tmp_path), "auc", "local")
    assert gain.mean == pytest.approx(0.11)  # 0.10 and 0.12
    assert gain.half == pytest.approx(12.7062 * 0.01, rel=1e-4)


def test_the_mean_is_over_sites_that_have_every_kind_in_a_seed(tmp_path):
    seed(tmp_path / "seed-1", 1)
    seed(tmp_path / "seed-2", 2, missing=("b",))
    means = mean_of_sites(open_folder(tmp_path), "auc")
    assert means["local"].mean == pytest.approx((0.6 + 0.7) / 2)
    notes = tables(open_folder(tmp_path))[0].notes
    assert notes == ["b (only one class). The mean is over the other sites."]


def test_a_summary_serves_where_the_seeds_have_no_baselines(tmp_path):
    heart(tmp_path, seeds=2, rounds=2)
    for path in tmp_path.glob("seed-*/baselines.json"):
        path.unlink()
    summary = json.loads((tmp_path / "summary.json").read_text())
    told = summary["table"]["cleveland"]["local"]["accuracy"]
    cells = tables(open_folder(tmp_path))[1].rows[0].cells
    assert cells["local"].mean == pytest.approx(sum(told) / 2)


def test_many_sites_are_told_by_their_spread(tmp_path):
    found = tables(open_folder(crowd(tmp_path, clients=100, rounds=5, cohort=10, baselines=True)))
    names = [r.name for r in found[0].rows]
    assert names == ["mean of sites", "lower tenth of sites", "median site", "upper tenth of sites"]
    assert found[0].crowd.startswith("100 sites")
