"""Hospital stays of Medicare patients in Arizona, 1991 (table ``medpar`` of the R package COUNT).

The table is GPL-2 and so is kept out of Hanse's wheel; it lies beside the example that uses it.
"""

from pathlib import Path
from typing import Final

import numpy as np

from hanse.data.labels import site_id
from hanse.data.table import Table, read_csv

_INPUTS: Final = ("los", "hmo", "white", "age80", "type", "type1", "type2", "type3")
_REQUIRED: Final = (*_INPUTS, "died", "provnum")


def medpar(path: str | Path) -> Table:
    """Read ``medpar.csv``: 1,495 stays at 54 hospitals of 1 to 92 stays each.

    ``columns`` are float64 [n]: ``los`` (length of stay, days), the yes-or-no columns ``hmo`` (in a
    health maintenance organisation), ``white``, ``age80`` (80 years or older), and the ``type`` of
    admission (1 elective, 2 urgent, 3 emergency), also as ``type1``, ``type2``, ``type3``.
    ``target`` is 1 if the patient died. The length of stay is known only when a stay ends: leave it
    out when predicting at admission. ``group`` is the provider's number, such as "30001".

    Raises DataError if the file cannot be read, lacks columns (named), or holds a value that is no
    number (with its line).
    """
    text = read_csv(path, _REQUIRED)
    columns = {name: text.numbers(name) for name in _INPUTS}
    died = text.numbers("died")
    unclear = ~np.isin(died, (0, 1))
    if unclear.any():
        raise text.wrong("died", int(unclear.argmax()), "0 or 1")
    group = np.array([site_id(name) for name in text.cells["provnum"]])
    return Table(dict(columns), group, died.astype(np.int8))
