"""Heart disease at four hospitals (Janosi, Steinbrunn, Pfisterer, Detrano; UCI, CC BY 4.0).

920 patients, 13 findings each, and whether coronary arteries turned out narrowed. FLamby's
Fed-Heart-Disease (arXiv:2210.04620) has the same four hospitals. DOI 10.24432/C52P4X.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.data.labels import site_id
from hanse.data.table import CsvText, Table, read_csv, require

NUMBERS: Final[dict[str, tuple[float, float]]] = {
    "age": (50, 10),  # years
    "trestbps": (130, 20),  # mmHg, at rest
    "chol": (240, 50),  # mg/dl
    "thalch": (140, 25),  # highest heart rate reached, per minute
    "oldpeak": (1, 1),  # mm, ST depression by exercise
    "ca": (1, 1),  # major vessels coloured by fluoroscopy, 0 to 3
}
"""Numeric columns with the centre and the spread they are scaled by.

The constants are round numbers a cardiologist would name, typed here and not computed from the
data: no statistic crosses sites."""

CODES: Final[dict[str, dict[str, int]]] = {
    "sex": {"female": 0, "male": 1},
    "cp": {"typical angina": 1, "atypical angina": 2, "non-anginal": 3, "asymptomatic": 4},
    "fbs": {"false": 0, "true": 1},
    "restecg": {"normal": 0, "st-t abnormality": 1, "lv hypertrophy": 2},
    "exang": {"false": 0, "true": 1},
    "slope": {"upsloping": 1, "flat": 2, "downsloping": 3},
    "thal": {"normal": 3, "fixed defect": 6, "reversable defect": 7},  # the file's own spelling
}
"""Columns of words, and the numbers UCI codes them by."""

_ZERO_IS_MISSING = ("trestbps", "chol")
_REQUIRED = (*NUMBERS, *CODES, "dataset", "num")
_MOVED = {"id": "304", "dataset": "Cleveland", "age": "28", "chol": "132", "thalch": "185"}


def heart_disease(path: str | Path) -> Table:
    """Read ``heart_disease_uci.csv``, or a site's own file of the same columns.

    ``columns`` are float64 [n], NaN where missing: six numbers (``NUMBERS``), seven codes
    (``CODES``; a file may hold the words or the codes). 0 means missing in ``chol`` and
    ``trestbps``. ``group`` is column ``dataset`` as a site id: cleveland, hungary, switzerland,
    va-long-beach. ``target`` is 1 where ``num`` > 0. The patient with id 304 is filed under
    Cleveland but is Hungary's first, and is moved there, recognised by several values. Other
    columns are left unread.

    Raises DataError if the file cannot be read, lacks columns (named), or holds a value that is no
    number or no known word (with its line).
    """
    text = read_csv(path, _REQUIRED)
    columns = {name: text.numbers(name) for name in NUMBERS}
    for name in _ZERO_IS_MISSING:
        columns[name][columns[name] == 0] = np.nan
    columns |= {name: text.codes(name, codes) for name, codes in CODES.items()}
    _refuse_nan(text, "age", columns["age"], "the age in years")
    num = text.numbers("num")
    _refuse_nan(text, "num", num, "0 for healthy, 1 to 4 for diseased")
    return Table(dict(columns), _hospitals(text), (num > 0).astype(np.int8))


_FLAGGED = tuple(name for name in NUMBERS if name != "age")
_WORDS = tuple((name, word) for name in CODES for word in CODES[name])
HEART_FEATURES: Final = (
    *NUMBERS,
    *(f"{name} missing" for name in _FLAGGED),
    *(f"{name}: {word}" for name, word in _WORDS),
)
"""The names of the columns of ``heart_features``, in order."""


def heart_features(table: Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return inputs float32 [n, 30], named by ``HEART_FEATURES``, and target float32 [n], 0 or 1.

    Numbers are scaled to (value − centre) / spread by the constants of ``NUMBERS``; a missing one
    is 0 with its flag set (age is never missing). Each word has a column of its own, 0 or 1; where
    it is missing all of them are 0. There is no NaN, and no statistic of the data is used. Raises
    DataError if the table lacks columns.
    """
    require((*NUMBERS, *CODES), table.columns, "the table")
    centre, spread = np.array(list(NUMBERS.values()), np.float32).T
    scaled = np.nan_to_num((table.features(*NUMBERS) - centre) / spread)
    flags = np.isnan(table.features(*_FLAGGED))
    words = [table.columns[name] == CODES[name][word] for name, word in _WORDS]
    inputs = np.column_stack([scaled, flags, *words])
    return inputs.astype(np.float32), table.target.astype(np.float32)


def _hospitals(text: CsvText) -> NDArray[np.str_]:
    """Return each row's site id, with the one mislabelled patient moved."""
    for row, name in enumerate(text.cells["dataset"]):
        if not name:
            raise text.wrong("dataset", row, "the hospital's name")
    ids = {name: site_id(name) for name in set(text.cells["dataset"])}
    group = np.array([ids[name] for name in text.cells["dataset"]])
    known = [text.cells.get(name, [""] * len(text)) for name in _MOVED]
    strays = [
        row for row, cells in enumerate(zip(*known, strict=True)) if cells == tuple(_MOVED.values())
    ]
    group[strays] = "hungary"
    return group


def _refuse_nan(text: CsvText, name: str, values: NDArray[np.float64], wanted: str) -> None:
    if np.isnan(values).any():
        raise text.wrong(name, int(np.isnan(values).argmax()), wanted)
