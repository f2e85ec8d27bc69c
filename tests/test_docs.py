"""The documentation is complete, and what it shows runs (after datasette's test_docs.py)."""

import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import hanse
from hanse import names as tables
from hanse.cli.app import app
from hanse.errors import HanseError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"^<!-- run -->\n+```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
REFERENCE = re.compile(r"^::: (\S+)$", re.MULTILINE)


def code(text: str) -> str:
    """What a page sets as code, and the names whose docstrings it includes."""
    fenced = [body for _, _, body in FENCE.findall(text)]
    return "\n".join(fenced + SPAN.findall(FENCE.sub("", text)) + REFERENCE.findall(text))


ALL_CODE = "\n".join(map(code, PAGES.values()))


def is_mentioned(name: str, text: str = ALL_CODE) -> bool:
    """Whether ``name`` stands in ``text`` as a whole name."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


def subclasses(cls: type) -> Iterator[type]:
    """Every class below ``cls``."""
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def missing(names) -> list[str]:
    return sorted(name for name in names if not is_mentioned(name))


def test_every_public_name_is_documented():
    assert missing(name for name in hanse.__all__ if not name.startswith("_")) == []


def test_every_command_is_documented_with_its_options():
    page = PAGES["reference/cli.md"]
    for name, command in get_command(app).commands.items():
        assert is_mentioned(f"hanse {name}", page), name
        options = [flag for p in command.params for flag in p.opts if flag.startswith("--")]
        assert [o for o in options if not is_mentioned(o, page)] == [], name


def test_every_error_code_has_a_section():
    sections = re.findall(r"^## `(.+?)`", PAGES["errors.md"], re.MULTILINE)
    assert {error.code for error in subclasses(HanseError)} <= set(sections)


@pytest.mark.parametrize(
    "table", ["STEPS", "REDUCERS", "STRATEGIES", "SAMPLERS", "PARTITIONERS", "METRICS"]
)
def test_every_name_that_a_run_file_may_use_is_documented(table):
    names = getattr(tables, table)
    assert names
    assert missing(f'"{name}"' for name in names) == []


@pytest.mark.parametrize("page", [p for p, text in PAGES.items() if RUN.search(text)])
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """One page is one program: its blocks share their names and an empty working directory."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page}
    for block in RUN.finditer(PAGES[page]):
        line = PAGES[page][: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], DOCS / page, "exec"), names)


@pytest.mark.parametrize("page", [p for p, text in PAGES.items() if "```toml" in text])
def test_the_toml_of_a_page_is_well_formed(page):
    for _, language, body in FENCE.findall(PAGES[page]):
        if language == "toml":
            tomllib.loads(textwrap.dedent(body))
