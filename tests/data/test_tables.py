"""The carried tables, and what a site's own file may look like."""

import re
from pathlib import Path

import numpy as np
import pytest

from hanse.data import HEART_FEATURES, Table, heart_disease, heart_features, medpar, site_id
from hanse.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples" / "healthcare"
HEART = EXAMPLES / "heart" / "data" / "heart_disease_uci.csv"
HEADER = HEART.read_text().splitlines()[0]
PATIENT = "1,63,Male,Bern,typical angina,145,233,TRUE,normal,150,FALSE,2.3,flat,0,normal,2"


@pytest.fixture(scope="module")
def heart():
    return heart_disease(HEART)


@pytest.fixture
def own_file(tmp_path):
    def write(*rows, header=HEADER):
        path = tmp_path / "own.csv"
        path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("site", "patients", "positive"),
    [
        ("cleveland", 303, 139),
        ("hungary", 294, 106),
        ("switzerland", 123, 115),
        ("va-long-beach", 200, 149),
    ],
)
def test_the_four_hospitals_have_the_published_numbers_of_patients(heart, site, patients, positive):
    table = heart.site(site)
    assert (len(table), int(table.target.sum())) == (patients, positive)
    assert table.sites == (site,)


def test_heart_disease_has_920_patients_at_four_hospitals(heart):
    assert len(heart) == 920
    assert heart.sites == ("cleveland", "hungary", "switzerland", "va-long-beach")
    assert heart.target.dtype == np.int8


def test_the_mislabelled_patient_is_in_hungary(heart):
    assert heart.group[303] == "hungary"
    assert heart.columns["age"][303] == 28


def test_a_cleveland_patient_who_only_shares_that_id_stays(own_file):
    row = PATIENT.replace("Bern", "Cleveland").replace("1,63", "304,63")
    assert heart_disease(own_file(row)).sites == ("cleveland",)


def test_zero_means_missing_in_cholesterol_and_blood_pressure_only(heart):
    missing = {name: int(np.isnan(column).sum()) for name, column in heart.columns.items()}
    assert missing == {
        "age": 0,
        "sex": 0,
        "cp": 0,
        "trestbps": 59 + 1,
        "chol": 30 + 172,
        "fbs": 90,
        "restecg": 2,
        "thalch": 55,
        "exang": 55,
        "oldpeak": 62,
        "slope": 309,
        "ca": 611,
        "thal": 486,
    }
    assert np.isnan(heart.site("switzerland").columns["chol"]).all()


def test_heart_features_are_finite_and_named(heart):
    x, y = heart_features(heart)
    assert x.shape == (920, len(HEART_FEATURES)) == (920, 30)
    assert (x.dtype, y.dtype) == (np.float32, np.float32)
    assert np.isfinite(x).all()
    assert np.abs(x).max() < 8
    assert set(np.unique(y)) == {0, 1}


def test_a_patients_features_do_not_depend_on_who_else_is_in_the_table(heart):
    together = heart_features(heart)[0][heart.group == "hungary"]
    np.testing.assert_array_equal(together, heart_features(heart.site("hungary"))[0])


def test_one_patient_by_hand(own_file):
    x, y = heart_features(heart_disease(own_file(PATIENT.replace(",233,", ",0,"))))
    shown = {name: round(float(v), 6) for name, v in zip(HEART_FEATURES, x[0], strict=True) if v}
    assert shown == {
        "age": 1.3,
        "trestbps": 0.75,
        "thalch": 0.4,
        "oldpeak": 1.3,
        "ca": -1,
        "chol missing": 1,
        "sex: male": 1,
        "cp: typical angina": 1,
        "fbs: true": 1,
        "restecg: normal": 1,
        "exang: false": 1,
        "slope: flat": 1,
        "thal: normal": 1,
    }
    assert y.tolist() == [1]


def test_a_sites_own_file_may_use_codes_and_any_mark_for_missing(own_file):
    words = heart_features(heart_disease(own_file(PATIENT.replace(",233,", ",,"))))[0]
    codes = "9,63,1,Bern,1,145,?,1.0,0,150,0,2.3,2,0,3,2"
    np.testing.assert_array_equal(heart_features(heart_disease(own_file(codes)))[0], words)


def test_a_file_may_have_a_byte_order_mark_blank_lines_and_no_id(tmp_path):
    path = tmp_path / "excel.csv"
    lines = [HEADER, "", PATIENT, ""]
    without_id = "\r\n".join(line.partition(",")[2] for line in lines)
    path.write_bytes(without_id.encode("utf-8-sig"))
    assert heart_disease(path).sites == ("bern",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PATIENT.replace(",145,", ",high,"), 'line 2: trestbps is "high"'),
        (PATIENT.replace(",145,", ",inf,"), 'line 2: trestbps is "inf"'),
        (PATIENT.replace("typical", "usual"), 'line 2: cp is "usual angina"'),
        (PATIENT.replace("typical angina", "5"), 'line 2: cp is "5"'),
        (PATIENT[:-1], 'line 2: num is ""'),
        (PATIENT.replace("1,63", "1,"), 'line 2: age is ""'),
        (PATIENT.replace("Bern", ""), 'line 2: dataset is ""'),
        (PATIENT.replace("Bern", "??"), "cannot name a site"),
        (PATIENT + ",1", "line 2: 17 cells, but the header has 16"),
        ('"' + PATIENT, "is no UTF-8 CSV file"),
    ],
)
def test_a_wrong_cell_is_named_by_line_column_and_value(own_file, row, message):
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        heart_disease(own_file(row))
    assert caught.value.hint


def test_missing_columns_are_named(own_file):
    path = own_file("1,2", header="age,sex")
    with pytest.raises(DataError, match=r"own\.csv lacks the columns trestbps, chol, .*, num"):
        heart_disease(path)
    with pytest.raises(DataError, match=r"lacks the columns los, .*, provnum"):
        medpar(path)


def test_two_columns_of_one_name_are_refused(own_file):
    with pytest.raises(DataError, match="two columns of one name"):
        heart_disease(own_file(PATIENT + ",3", header=HEADER + ",num"))


def test_an_unreadable_file_is_named(tmp_path, own_file):
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read: no such file"):
        heart_disease(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="cannot be read: is a directory"):
        medpar(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match=r"empty\.csv is empty"):
        heart_disease(tmp_path / "empty.csv")
    (tmp_path / "latin.csv").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"latin\.csv is no UTF-8 CSV file"):
        heart_disease(tmp_path / "latin.csv")
    with pytest.raises(DataError, match="has a header but no rows"):
        heart_disease(own_file())


def test_medpar_has_1495_stays_at_54_hospitals():
    table = medpar(EXAMPLES / "stays" / "medpar.csv")
    assert (len(table), len(table.sites), int(table.target.sum())) == (1_495, 54, 513)
    sizes = np.unique(table.group, return_counts=True)[1]
    assert (sizes.min(), sizes.max()) == (1, 92)
    assert len(table.site("30061")) == 92
    assert table.features("hmo", "white", "age80").shape == (1_495, 3)


def test_whether_a_patient_died_must_be_known(own_file):
    names = "los,hmo,white,died,age80,type,type1,type2,type3,provnum"
    path = own_file("4,0,1,0,0,1,1,0,0,30001", "4,0,1,,0,1,1,0,0,30001", header=names)
    with pytest.raises(DataError, match='line 3: died is ""'):
        medpar(path)


def test_a_table_gives_sites_columns_and_features():
    columns = {"a": np.array([1, 2, 3]), "word": np.array(["x", "y", "z"])}
    table = Table(columns, np.array(["n", "m", "n"]), np.array([0, 1, 1], np.int8))
    assert table.sites == ("m", "n")
    assert table.site("n").features("a").tolist() == [[1], [3]]
    assert list(table.as_columns()) == ["a", "word", "group", "target"]
    with pytest.raises(DataError, match='no rows of site "o"') as caught:
        table.site("o")
    assert caught.value.hint == "the sites are m, n"
    with pytest.raises(DataError, match=r'column "word" .* is no number'):
        table.features()
    with pytest.raises(DataError, match="the table lacks the column b"):
        table.features("a", "b")
    with pytest.raises(DataError, match="the table lacks the columns age, "):
        heart_features(table)
    with pytest.raises(DataError, match='column "group" has 2 rows, the target 3'):
        Table(columns, np.array(["n", "m"]), np.zeros(3, np.int8))


@pytest.mark.parametrize(
    ("value", "id"),
    [
        ("VA Long Beach", "va-long-beach"),
        ("Zürich (Süd)", "zurich-sud"),
        (30001.0, "30001"),
        (np.int64(7), "7"),
        (np.True_, "true"),
        ("  A__b ", "a-b"),
    ],
)
def test_a_value_becomes_a_site_id(value, id):
    assert site_id(value) == id
