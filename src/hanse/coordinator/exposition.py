"""Numbers in the form that Prometheus reads: its text format, version 0.0.4."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]
"""(name, value) pairs; empty where there is one number only."""
ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of numbers: what it counts, and a number for each set of labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Mapping[Labels, float]


def alone(value: float) -> Mapping[Labels, float]:
    """Return the samples of a metric that is one number."""
    return {(): value}


def by(label: str, values: "Mapping[str, float]") -> Mapping[Labels, float]:
    """Return the samples of a metric with one label."""
    return {((label, name),): value for name, value in values.items()}


def exposition(metrics: Iterable[Metric]) -> str:
    """Return all metrics as text."""
    return "".join(f"{line}\n" for metric in metrics for line in _lines(metric))


def _lines(metric: Metric) -> Iterable[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for labels, value in metric.samples.items():
        pairs = ",".join(f'{name}="{text.translate(ESCAPED)}"' for name, text in labels)
        yield f"{metric.name}{f'{{{pairs}}}' if pairs else ''} {value}"
