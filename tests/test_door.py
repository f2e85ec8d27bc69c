"""The public door: each name leads somewhere, and opening it imports nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hanse


@pytest.mark.parametrize("name", hanse.__all__)
def test_every_public_name_leads_somewhere(name):
    assert getattr(hanse, name) is not None


def test_the_names_for_type_checkers_are_the_names_that_are_there():
    tree = ast.parse(Path(hanse.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    named = {alias.name for node in block.body for alias in node.names}
    assert named | {"__version__"} == set(hanse.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fedavgg'"):
        _ = hanse.fedavgg  # type: ignore[attr-defined]


def test_importing_hanse_imports_neither_numpy_nor_torch():
    script = (
        "import hanse, sys; print([m for m in ('numpy', 'torch', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
