import json
import math

import pytest
from tests.report.sample import heart, row, spec

from hanse.errors import ConfigError
from hanse.report.folder import history_of, open_folder, printable


def test_a_folder_of_one_seed_is_one_record(tmp_path):
    folder = open_folder(heart(tmp_path / "r", seeds=1, rounds=3))
    assert folder.name == "heart"
    assert [r.seed for r in folder.records] == [7]
    assert [r.number for r in folder.first.history] == [1, 2, 3]


def test_seeds_are_in_the_order_of_their_numbers(tmp_path):
    for seed in (10, 9, 100):
        path = tmp_path / f"seed-{seed}"
        path.mkdir()
        (path / "spec.json").write_text(spec("r", ["a"], 1, seed).canonical)
    assert [r.seed for r in open_folder(tmp_path).records] == [9, 10, 100]


def test_a_torn_last_line_is_left_out(tmp_path):
    lines = json.dumps(row(1, ["a"])) + "\n" + json.dumps(row(2, ["a"]))[:-20]
    (tmp_path / "history.jsonl").write_text(lines)
    assert [r.number for r in open_folder(tmp_path).first.history] == [1]


def test_a_broken_file_is_as_good_as_none(tmp_path):
    heart(tmp_path, seeds=1, rounds=2)
    (tmp_path / "result.json").write_text("{")
    assert open_folder(tmp_path).first.result == {}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run") as caught:
        open_folder(tmp_path)
    assert "hanse run" in caught.value.hint


def test_numbers_that_are_none_are_none():
    evaluation = {"pooled": {"loss": math.nan, "auc": None, "accuracy": True, "examples": 3}}
    found = history_of([row(1, ["a"], evaluation=evaluation)])[0].pooled
    assert found.values == {"loss": None, "auc": None, "accuracy": None}
    assert found.examples == 3


def test_a_row_of_the_wrong_shape_is_an_empty_round():
    found = history_of([{"round": 3, "counted": "abc", "refused": [1], "bytes": None}])[0]
    assert (found.number, found.counted, found.refused, found.up) == (3, [], {}, 0.0)


def test_texts_lose_control_and_direction_characters_and_their_end():
    assert printable("a\x00b\u202ec\n") == "a\ufffdb\ufffdc\ufffd"
    assert len(printable("x" * 10_000)) == 301
