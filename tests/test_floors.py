"""The layering of src/hanse: imports go down only, and optional packages stay optional."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hanse"
FLOORS = (
    "errors failpoints log",
    "core",
    "privacy secagg compression robust",
    "strategies",
    "train data",
    "sim config names source report",
    "net site coordinator evidence",
    "advise cli dashboard up faultsim",
    "__init__ __main__",  # the door: above all floors
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
APART = FLOORS[2].split()  # none of these imports another
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = {re.split(r"\W", requirement)[0] for requirement in PROJECT["dependencies"]}
EXTRAS = {
    "net": {"urllib3", "starlette", "uvicorn", "uvloop", "httptools"},
    "coordinator": {"sqlalchemy", "alembic", "starlette"},
}
"""What only those parts load that an extra of their own installs."""
EVERYWHERE = {*sys.stdlib_module_names, "hanse"}
FILES = sorted(SOURCE.rglob("*.py"))


def part(path: Path) -> str:
    """The part of Hanse that a file belongs to: a name in FLOOR."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(node: ast.AST, *, at_load: bool = False) -> Iterator[str]:
    """Modules imported under ``node``; with ``at_load``, only those that loading it imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield "." * child.level + (child.module or "")
        elif not (at_load and waits(child)):
            yield from imports(child, at_load=at_load)


def waits(node: ast.AST) -> bool:
    """Whether what is under ``node`` is not executed when its module is loaded."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def file(request) -> Path:
    return request.param


@pytest.fixture
def tree(file) -> ast.Module:
    return ast.parse(file.read_text())


def test_every_part_has_a_floor():
    assert {part(path) for path in FILES} <= FLOOR.keys()


def test_imports_go_down_only(file, tree):
    here = part(file)
    for module in imports(tree):
        if module.startswith("hanse."):
            there = module.split(".")[1]
            assert FLOOR[there] <= FLOOR[here], f"{here} may not import {module}: it is above"
            assert here == there or not {here, there} <= set(APART), f"{here} imports {module}"


def test_hanse_is_imported_as_from_hanse_x_import_y_only(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            whole = [a.name for a in node.names if a.name.split(".")[0] == "hanse"]
            assert not whole, f"line {node.lineno}: import {whole[0]}"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            assert node.module != "hanse", f"line {node.lineno}: goes through the public door"


def test_the_core_needs_numpy_and_the_standard_library_only():
    for file in FILES:
        if FLOOR[part(file)] > FLOOR["core"]:
            continue
        allowed = EVERYWHERE | {"numpy"}
        if file == SOURCE / "core" / "accelerate.py":
            allowed |= {"numba"}  # inside a function: the next test sees to that
        found = {module.split(".")[0] for module in imports(ast.parse(file.read_text()))}
        assert found <= allowed, file


def test_loading_a_module_imports_no_optional_package():
    for file in FILES:
        if file.match("hanse/train/torch*.py"):
            continue  # the adapter itself: nothing but its user imports it
        tree = ast.parse(file.read_text())
        loaded = {module.split(".")[0] for module in imports(tree, at_load=True)}
        assert loaded <= EVERYWHERE | REQUIRED | EXTRAS.get(part(file), set()), file


def test_the_command_line_says_which_extra_a_command_needs():
    script = (
        "import sys; sys.modules['urllib3'] = None\n"
        "from hanse.cli.app import main; sys.exit(main(['login', 'https://x:1', '--name', 'a']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert "hanse login needs urllib3" in done.stderr
    assert "pip install 'hanse[site]'" in done.stderr


def test_help_is_there_without_extras():
    script = (
        "import sys; sys.modules['urllib3'] = None\n"
        "from hanse.cli.app import main; sys.exit(main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "explain" in done.stdout


def test_hanse_and_its_command_line_load_without_torch():
    script = "import sys, hanse.cli.app; print(*{'torch', 'numba', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
