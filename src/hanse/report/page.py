"""Templates filled with values: here text becomes HTML, and every text is escaped."""

from collections.abc import Mapping
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hanse.report.draw import TEMPLATES


def render(template: str, values: Mapping[str, object]) -> str:
    """Return a template filled with ``values``; every text in them is escaped."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
