"""Schemas: what is wrong with a column is said once, in plain words, with no more of the data."""

import numpy as np
import pytest

from hanse.data.findings import findings
from hanse.data.schema import AtLeast, Category, Integer, Number, Schema
from hanse.errors import ConfigError


def said(kind, cells, *classes: AtLeast) -> list[str]:
    return [found.said for found in findings(Schema({"x": kind}, classes=classes), {"x": cells})]


def test_columns_as_declared_give_no_finding():
    assert said(Number(0, 120), ["0", "63.5", " 120 "]) == []
    assert said(Integer(0, 4), ["0", "3.0", "4"]) == []
    assert said(Category("yes", "no"), ["yes", "no"]) == []
    assert said(Number(), np.array([1.5, -1e300])) == []
    assert said(Category("true", "false"), np.array([True, False])) == []
    assert said(Integer(), np.array([1, 2], np.int8)) == []


def test_columns_that_are_not_declared_are_free():
    assert findings(Schema({"x": Number()}), {"x": ["1"], "y": ["?"]}) == []


def test_a_missing_column_has_the_nearest_name():
    (found,) = findings(Schema({"age": Number()}), {"Agee": ["1"], "sex": ["m"]})
    assert found.said == 'there is no column "age"; did you mean "Agee"?'
    (found,) = findings(Schema({"age": Number()}), {})
    assert found.said == 'there is no column "age"'


def test_a_wrong_type_is_told_by_its_place_and_not_by_its_value():
    (text,) = said(Number(), ["1", "Smith", "Jones", "Smith"])
    assert text == '"x" is not a number in 3 rows, the first in row 2'
    assert said(Integer(), ["1.5"]) == ['"x" is not a whole number in 1 row, the first in row 1']
    assert said(Number(), ["inf"]) == ['"x" is not a number in 1 row, the first in row 1']


def test_an_unknown_word_is_told_and_cut_short():
    (text,) = said(Category("Male", "Female"), ["Male", "male", "F"])
    assert (
        text == '"x" is "male" in row 2; did you mean "Male"?; 2 rows with a word that is not known'
    )
    (text,) = said(Category("a"), ["z" * 1000])
    assert len(text) < 120


def test_what_is_out_of_range_is_counted():
    assert said(Number(0, 120), ["-1", "50", "121"]) == [
        '"x" is not within 0 to 120 in 2 rows, the first in row 1'
    ]


@pytest.mark.parametrize("empty", ["", "?", "NA", "nan", "None"])
def test_a_missing_value_is_found_unless_the_schema_allows_it(empty):
    assert said(Number(), ["1", empty]) == ['"x" is missing in 1 row, the first in row 2']
    assert said(Number(missing=True), ["1", empty]) == []
    assert said(Category("a", missing=True), ["a", empty]) == []


def test_a_nan_is_missing_and_a_declared_word_is_not():
    assert said(Number(), np.array([1.0, np.nan])) == [
        '"x" is missing in 1 row, the first in row 2'
    ]
    assert said(Category("none", "some"), ["none", "some"]) == []


def test_too_few_rows_of_a_class_are_counted():
    rule = AtLeast(3, "x", 1, 2)
    assert said(Integer(0, 4), ["1", "2.0", "1", "0"], rule) == []
    assert said(Integer(0, 4), ["1", "2", "0"], rule) == [
        '"x" is 1 or 2 in 2 rows; the app needs 3'
    ]
    assert said(Category("a", "b"), ["a"], AtLeast(1, "x", "b")) == [
        '"x" is b in 0 rows; the app needs 1'
    ]


def test_a_schema_that_means_nothing_is_refused():
    with pytest.raises(ConfigError, match="nothing between its ends"):
        Number(3, 1)
    with pytest.raises(ConfigError, match="has no words"):
        Category()
    with pytest.raises(ConfigError, match="names no value"):
        AtLeast(3, "x")
    with pytest.raises(ConfigError, match='none of its columns; did you mean "num"'):
        Schema({"num": Integer()}, classes=(AtLeast(3, "nun", 1),))
