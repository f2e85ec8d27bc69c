"""The dry run: what it finds, what it says to do, and that only yes or no is meant to leave."""

from pathlib import Path

import pytest
from tests.site.test_policy import POLICY, REQUEST

from hanse.core.frames import model_frame, share_frame
from hanse.core.layout import Layout
from hanse.core.pipeline import Pipeline
from hanse.core.samplers import All
from hanse.core.spec import RunSpec
from hanse.core.work import LocalTraining
from hanse.data.schema import AtLeast, Category, Integer, Number, Schema
from hanse.errors import TaskError
from hanse.net.checks import Check
from hanse.site.contract import (
    CLOCK_S,
    SPARE,
    check_batch,
    check_clock,
    check_disk,
    check_policy,
    check_source,
    passed,
    space_needed,
)
from hanse.site.verdict import verdict

SCHEMA = Schema(
    {"age": Number(0, 120), "sex": Category("Male", "Female"), "num": Integer(0, 4)},
    source="heart",
    classes=(AtLeast(1, "num", 1, 2, 3, 4),),
)
HEART = Path(__file__).parents[2] / "examples/healthcare/heart/data/heart_disease_uci.csv"


def test_the_file_of_the_example_is_what_its_schema_says():
    (row,) = check_source(SCHEMA, HEART)
    assert row == Check("source heart", True, "920 rows, 3 columns as the app declares them")


def test_each_finding_is_a_row_with_what_to_do(tmp_path):
    path = tmp_path / "heart.csv"
    path.write_text("Age,sex,num\n50,male,0\n51,Female,9\n")
    rows = check_source(SCHEMA, path)
    assert not passed(rows)
    assert [row.said for row in rows] == [
        'there is no column "age"; did you mean "Age"?',
        '"sex" is "male" in line 2; did you mean "Male"?; 1 row with a word that is not known',
        '"num" is not within 0 to 4 in 1 row, the first in line 3',
        '"num" is 1 or 2 or 3 or 4 in 0 rows; the app needs 1',
    ]
    assert all(row.fix for row in rows)


def test_a_source_that_cannot_be_read_is_a_row_and_no_error(tmp_path):
    (row,) = check_source(SCHEMA, tmp_path / "none.csv")
    assert (row.ok, row.fix) == (False, "check the path of the source")
    assert "cannot be read" in row.said


def test_each_refusal_of_the_policy_is_a_row():
    assert check_policy([]) == [Check("policy", True, "the policy permits this run")]
    rows = check_policy(verdict(None, REQUEST))
    assert rows == [
        Check("policy", False, "this site has no policy", "hanse site policy writes one")
    ]
    assert passed(check_policy(verdict(POLICY, REQUEST)))


def test_what_the_model_raises_on_one_batch_is_a_row():
    def fails() -> None:
        raise TaskError("the model raised ValueError: 13 inputs", hint="see app.py, line 7")

    assert check_batch(lambda: None).ok
    assert check_batch(fails) == Check(
        "model", False, "the model raised ValueError: 13 inputs", "see app.py, line 7"
    )


def test_the_disk_must_hold_what_the_run_takes(tmp_path):
    assert check_disk(tmp_path, 1).ok
    row = check_disk(tmp_path, 2**60)
    assert not row.ok
    assert "1,099,511,627,776 MiB needed" in row.said


def test_a_run_takes_three_models_and_two_shares():
    spec = RunSpec(
        name="heart",
        task="app:task",
        data="app:data",
        clients=("a", "b"),
        rounds=1,
        seed=1,
        strategy={},
        sampler=All(),
        local=LocalTraining(),
        pipeline=Pipeline(),
        layout=Layout.build("float32", [("w", (1000,), "trainable")]),
        training=(),
        evaluation_scalars=(),
    )
    both = 3 * model_frame(spec.layout).size + 2 * share_frame(spec.bound).size
    assert space_needed(spec) == both + SPARE


@pytest.mark.parametrize(
    ("ahead", "ok", "said"),
    [(0.0, True, "0 s behind"), (CLOCK_S, True, "300 s ahead of"), (-600.0, False, "600 s behind")],
)
def test_a_clock_ten_minutes_off_is_said(ahead, ok, said):
    row = check_clock(ahead)
    assert row.ok == ok
    assert said in row.said
    assert bool(row.fix) == (not ok)
