import json

from tests.report.sample import heart

from hanse.report.folder import open_folder
from hanse.report.pipeline import observers, sees_each_update, steps


def record(path, *pipeline):
    heart(path, seeds=1, rounds=1)
    described = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**described, "pipeline": list(pipeline)}))
    return open_folder(path).first


WEIGHT = {"step": "weight", "by": "examples", "cap": 300.0, "denominator": "observed"}
CLIP = {"step": "clip", "norm": 2.0}


def test_steps_stand_in_the_order_of_application_with_their_facts(tmp_path):
    told = steps(record(tmp_path, WEIGHT, CLIP))
    assert [step.name for step in told] == ["clip", "weight", "sum"]
    assert told[0].facts == "L2 norm ≤ 2"
    assert told[1].facts == "weight ≤ 1; the total is divided by the sum of weights"
    assert "300 or more count alike" in told[1].meaning


def test_a_step_that_is_not_built_in_is_listed_without_facts(tmp_path):
    told = record(tmp_path, {"step": "secret", "k": 3})
    assert [(s.name, s.settings, s.facts) for s in steps(told)] == [("secret", "k = 3", "")]
    assert observers(told) == []
    assert not sees_each_update(told)


def test_a_pipeline_that_would_be_refused_is_listed_without_facts(tmp_path):
    noise = {"step": "gaussian_noise", "noise_multiplier": 1.0}
    assert [s.facts for s in steps(record(tmp_path, noise))] == [""]


def test_the_coordinator_sees_each_clipped_update(tmp_path):
    told = dict(observers(record(tmp_path, WEIGHT, CLIP)))
    assert told["the coordinator"].startswith(
        "each site's update, shortened to L2 norm 2, times its weight"
    )
    assert "without noise" in told["whoever gets the model"]


def test_noise_is_told_with_its_standard_deviation(tmp_path):
    weight = {**WEIGHT, "denominator": 4.0}
    told = record(tmp_path, weight, CLIP, {"step": "gaussian_noise", "noise_multiplier": 0.5})
    facts = {step.name: step.facts for step in steps(told)}
    assert facts["gaussian_noise"] == (
        "noise of standard deviation 1 in each coordinate of the total"
    )
    assert "training loss" not in dict(observers(told))["the coordinator"]
