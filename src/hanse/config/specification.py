"""A run's spec and layout as they travel: read back into objects, or refused.

What is read is believed only if it is written back as the very same bytes: a setting that the
receiver does not know, or reads otherwise, cannot hide in a spec.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hanse.core.canonical import Json, encode
from hanse.core.layout import ROLES, Layout
from hanse.core.metrics import Metric
from hanse.core.pipeline import Pipeline
from hanse.core.spec import Evaluation, Quorum, RunSpec
from hanse.core.work import LocalTraining, Proximal
from hanse.errors import HanseError, ProtocolError
from hanse.names import SERVERS, lookup
from hanse.strategies import Strategy
from hanse.train.local import evaluation_scalars, real_sum, training_scalars

MOST_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Specification:
    """A spec with what stands behind its names: the strategy, and the metrics."""

    spec: RunSpec
    strategy: Strategy
    metrics: tuple[Metric, ...]


def layout_json(layout: Layout) -> dict[str, Json]:
    """Return a layout as JSON takes it."""
    return {
        "dtype": layout.dtype,
        "tensors": [[e.name, list(e.shape), e.role] for e in layout.entries],
    }


def read_layout(found: Any) -> Layout:
    """Return the layout of :func:`layout_json`; ProtocolError for anything else."""
    try:
        tensors = [(name, tuple(map(_size, shape)), role) for name, shape, role in found["tensors"]]
        if any(role not in ROLES or not isinstance(name, str) for name, _, role in tensors):
            raise ValueError("a tensor has no name or no role")
        layout = Layout.build(found["dtype"], tensors)
        if layout_json(layout) != found:
            raise ValueError("its tensors are not in their order")
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a layout that cannot be read: {error}") from error
    return layout


def _size(found: Any) -> int:
    if not isinstance(found, int) or not 0 <= found < 2**40:
        raise ValueError(f"a dimension of {found!r}")
    return found


def read_spec(text: str, layout: Layout) -> Specification:
    """Return the specification of a canonical spec.

    Raises ProtocolError unless it reads back as it is written.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"{len(text)} bytes")
        found = json.loads(text)
        read = _specification(found, layout)
        same = read.spec.canonical == text
    except (KeyError, TypeError, ValueError, AttributeError, HanseError) as error:
        raise ProtocolError(f"a spec that cannot be read: {error}") from error
    if not same:
        raise ProtocolError(
            "a spec that does not read back as it is written", hint=_odd(read, text)
        )
    return read


def _odd(read: Specification, text: str) -> str:
    mine, theirs = read.spec.json(), json.loads(text)
    odd = [k for k in {*mine, *theirs} if encode(mine.get(k)) != encode(theirs.get(k))]
    return f"look at {', '.join(sorted(odd))}; both ends need the same version of Hanse"


def _specification(found: Any, layout: Layout) -> Specification:
    metrics = tuple(lookup("metric", name) for name in found["metrics"])
    strategy = _strategy(found["strategy"])
    local = _local(found["local"])
    spec = RunSpec(
        name=found["name"],
        task=found["task"],
        data=found["data"],
        clients=tuple(found["clients"]["ids"]),
        rounds=found["rounds"],
        seed=found["seed"],
        strategy=strategy.settings(),
        sampler=strategy.sampler,
        local=local,
        pipeline=Pipeline(map(_step, found["pipeline"])),
        layout=layout,
        training=_training(found["reports"]),
        evaluation_scalars=evaluation_scalars(metrics),
        evaluation=Evaluation(**found["evaluation"]),
        quorum=Quorum(**found["quorum"]),
        faults=found["faults"],
        population=found["population"],
        app=found["app"],
        sources=tuple(found["sources"]),
        purpose=found["purpose"],
        engine=found["engine"],
    )
    return Specification(spec, strategy, metrics)


def _strategy(found: Any) -> Strategy:
    server = dict(found["server"])
    sampler = dict(found["sampler"])
    correction = found["correction"]
    return Strategy(
        found["name"],
        SERVERS[server.pop("name")](**server),
        lookup("sampler", sampler.pop("name"))(**sampler),
        None if correction is None else Proximal(mu=correction["proximal"]),
    )


def _step(found: Any) -> Any:
    settings = dict(found)
    return lookup("step", settings.pop("step"))(**settings)


def _local(found: Any) -> LocalTraining:
    settings = dict(found)
    settings["betas"] = tuple(settings["betas"])
    if settings["batch_size"] == "all":
        settings["batch_size"] = None
    return LocalTraining(**settings)


def _training(names: Iterable[str]) -> Any:
    standard = training_scalars()
    listed = list(names)
    if listed[: len(standard)] != [scalar.name for scalar in standard]:
        raise ValueError(f"a report of {', '.join(listed)}")
    return (*standard, *(real_sum(name) for name in listed[len(standard) :]))
