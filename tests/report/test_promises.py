"""What a spec promises follows from its facts, and is never more than they say."""

import json
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from tests.report import sample

from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.reduce import Sum
from hanse.core.spec import Evaluation
from hanse.core.step import Kind, Step
from hanse.core.weight import Weight
from hanse.names import REDUCERS, STEPS
from hanse.privacy import Clip, GaussianNoise
from hanse.report.folder import open_folder
from hanse.report.promises import from_json, promises, to_json

WEIGHT = Weight(by="examples", cap=300)
PRIVATE = (Weight(by="examples", cap=300, denominator=2.0), Clip(0.5), GaussianNoise(1.2))
UNSEEN = Evaluation(release="none")
PIPELINE = "Pipeline, in the order in which it is applied"
SIGHTS = "Who sees what, once these are real sites"
LIMITS = "What this run does not protect against"
BYTES = "Bytes per client and round"


def spec(*steps, **more):
    return sample.spec("r", ["a", "b", "c"], 9, 1, pipeline=Pipeline(steps), **more)


def told(spec, **more):
    """Return title → section."""
    return {section.title: section for section in promises(spec, **more)}


def rows(section):
    return {row[0]: row[1:] for row in section.rows}


def sights(spec):
    return rows(told(spec)[SIGHTS])


def test_steps_stand_in_the_order_of_application_with_what_holds_after_them():
    section = told(spec(WEIGHT, Clip(0.5)))[PIPELINE]
    assert section.rows == (
        (
            "clip (norm = 0.5)",
            "At the client, shorten an update whose L2 norm exceeds 0.5 to that norm",
            "L2 norm ≤ 0.5",
        ),
        (
            "weight (by = examples, cap = 300, denominator = observed)",
            "Let a client count by its weight (examples); weights of 300 or more count alike",
            "weight ≤ 1; the total is divided by the sum of the weights counted",
        ),
        (
            "sum",
            "Add shares exactly, as integers: the order of arrival changes no bit",
            "as before",
        ),
    )


def test_a_clause_about_a_setting_that_is_not_set_is_left_out():
    section = told(spec(Weight(by="steps")))[PIPELINE]
    assert section.rows[0][1] == "Let a client count by its weight (steps)"


@dataclass(frozen=True)
class Shrink(Step):
    """Divide by ``by``, e.g. to fit (:mod:`numpy`); what is
    left is small. More is not said.

    Nor this.
    """

    by: float

    name: ClassVar[str] = "shrink"
    kind: ClassVar[Kind] = "linear"

    def check(self, facts):
        return replace(facts, l2=math.inf, memory=True, bits=8, domain="integers", visible="sum")


def test_a_step_of_someone_else_is_told_in_its_own_words():
    sections = told(spec(Clip(2.0), Shrink(by=4.0)))
    name, purpose, facts = sections[PIPELINE].rows[2]
    assert name == "shrink (by = 4)"
    assert purpose == "Divide by 4, e.g. to fit (numpy); what is left is small"
    assert facts == (
        "no L2 bound; the coordinator sees only sums; numbers are integers; 8 bits per "
        "coordinate; the client remembers something until its next round"
    )
    assert rows(sections[SIGHTS])["a site's update"][0] == "only inside a sum"
    assert not any("each site's update" in note for note in sections[LIMITS].notes)


@pytest.mark.parametrize("step", [*STEPS.values(), *REDUCERS.values()])
def test_a_built_in_step_has_a_first_sentence_that_fits_a_cell(step):
    first = step.__doc__.split(".")[0]
    assert not first.startswith(f"{step.__name__}(")  # what a dataclass writes itself
    assert len(first) < 260


def test_a_weight_without_a_cap_is_called_so():
    assert "weight ≤ 1,048,576, which is no cap" in told(spec(Weight()))[PIPELINE].rows[0][2]


def test_noise_is_told_with_its_standard_deviation_on_the_wire():
    purpose, facts = rows(told(spec(*PRIVATE, evaluation=UNSEEN))[PIPELINE])[
        "gaussian_noise (noise_multiplier = 1.2)"
    ]
    assert "standard deviation 1.2 times the L2 bound" in purpose
    assert purpose.endswith("only the model, not against the coordinator")
    assert facts == "noise of standard deviation 0.6 in each coordinate of the total"


def test_a_limit_of_the_sum_is_a_fact():
    section = told(spec(Sum(limit=8.0)))[PIPELINE]
    assert section.rows[-1][::2] == ("sum (limit = 8)", "each |coordinate| ≤ 8")


def test_the_grid_is_that_of_the_run():
    grid = rows(told(spec(WEIGHT, Clip(0.5)))["Exact sums"])
    assert grid["limit"] == ("|coordinate| ≤ 0.5; a share beyond it is refused",)
    assert grid["largest cohort"][0].startswith("3:")
    assert "2^-51" in grid["grid"][0]


def test_plain_sums_show_the_coordinator_each_update_and_its_counts():
    plain = spec(WEIGHT, Clip(0.5))
    seen = sights(plain)
    assert seen["a site's update"] == (
        "each one, clipped to norm 0.5, times its weight",
        *["only inside the model"] * 2,
    )
    assert seen["a site's weight, examples, steps, examples seen, training loss"][0] == "each one"
    assert seen["a site's test results"][0] == "each site's counts, every round"
    assert seen["a site's data"] == ("no", "no", "no")
    assert told(plain)[LIMITS].notes[0].startswith("The coordinator sees each site's update")


def test_an_update_without_a_bound_is_seen_as_it_is():
    assert sights(spec())["a site's update"][0].startswith("each one, as it is")


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (Evaluation(5), "each site's counts, every 5 rounds and after the last"),
        (Evaluation(1, "sum"), "each site's counts, every round; it hands on their sum only"),
        (Evaluation(1, "none"), "no: there are none"),
        (Evaluation(1, "simulation"), "no: only this simulation has them"),
        (Evaluation(0), "no: there are none"),
    ],
)
def test_the_release_of_evaluation_decides_who_sees_it(evaluation, said):
    assert sights(spec(evaluation=evaluation))["a site's test results"] == (said, "no", "no")


def test_central_noise_is_never_said_to_protect_against_the_coordinator():
    private = spec(*PRIVATE, evaluation=UNSEEN)
    assert sights(private)["a site's update"] == (
        "each one, clipped to norm 0.5, times its weight",
        *["only inside the model, under noise"] * 2,
    )
    kept = sights(private)["a site's examples, steps, examples seen, training loss"]
    assert kept[0].startswith("no")
    seen, noise, _ = told(private)[LIMITS].notes
    assert "each site's update of each round, before the noise" in seen
    assert "multiplier 1.2, per client and round" in noise
    assert "only against those who see the models and not its update" in noise


def test_without_noise_the_model_is_not_called_harmless():
    notes = " ".join(told(spec(WEIGHT))[LIMITS].notes)
    assert "There is no noise" in notes
    assert "turned back into data" in notes


def test_bytes_are_per_parameter_where_the_model_is_unknown():
    sent = rows(told(spec(WEIGHT), known=False)[BYTES])
    assert sent["up"] == ("4 B × parameters + 40 B (5 integers)",)
    assert sent["down"] == ("4 B × parameters: 4 MB per million",)
    assert "up, an evaluation" in sent
    never = told(spec(evaluation=Evaluation(every=0)), known=False)
    assert "up, an evaluation" not in rows(never[BYTES])


def test_bytes_are_exact_where_it_is_known():
    layout = Layout.build("float64", [("w", (3,), "trainable"), ("fixed", (20,), "frozen")])
    sent = rows(told(spec(WEIGHT, layout=layout))[BYTES])
    assert sent["up"] == ("104 bytes, of which 5 integers",)  # 8 of 8 B, and 5 of 8 B
    assert sent["down"] == ("256 bytes",)  # (8 + 24) of 8 B
    private = told(spec(*PRIVATE, evaluation=UNSEEN, layout=layout))
    assert rows(private[BYTES]) == {"up": ("64 bytes",), "down": ("256 bytes",)}
    assert sent["up, an evaluation"] == ("40 bytes",)  # weight, examples, loss, two metrics


@pytest.mark.parametrize("made", [spec(), spec(WEIGHT), spec(*PRIVATE, evaluation=UNSEEN)])
def test_promises_come_back_from_json_and_from_a_folder_as_they_were(made, tmp_path):
    sections = promises(made)
    assert from_json(json.loads(json.dumps(to_json(sections)))) == sections
    sample.write(tmp_path, made, [])
    assert open_folder(tmp_path).first.promises == sections


@pytest.mark.parametrize("shape", [None, {}, "text", ["text"], [{"title": "t", "columns": []}]])
def test_another_shape_is_a_value_error(shape):
    with pytest.raises(ValueError, match="is no"):
        from_json(shape)
