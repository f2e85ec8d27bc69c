"""What federation is measured against: each site alone, and all data in one place.

Both get the same budget: rounds × epochs passes over the same data, with the same local settings,
in one go (optimiser state is never reset). *Pooled* is a bound that may not exist in real life.
"""

from dataclasses import replace

from hanse.core.canonical import Json
from hanse.core.layout import Vector
from hanse.core.work import LocalTraining, Train
from hanse.errors import ConfigError
from hanse.sim.evaluation import values
from hanse.sim.run import Run
from hanse.sim.station import Station, station_of
from hanse.train.local import Prepared, Turn

Table = dict[str, dict[str, Json]]


def baselines(run: Run, federated: Vector | None = None) -> dict[str, Table]:
    """Train local-only and pooled models; return ``{"local": …, "pooled": …}`` by site.

    The simulator measures them beside the protocol, and so it does the model ``federated`` (flat,
    in the layout's dtype) if that is given: where a run lets no results of single sites leave.
    ConfigError where sites have no test data of their own.
    """
    with run.task.exactly(run.local.threads):
        return _baselines(run, station_of(run, run.spec), federated)


def _baselines(run: Run, station: Station, federated: Vector | None) -> dict[str, Table]:
    data = {client: station.data(client) for client in run.population.ids}
    tests = {client: test for client, (_, test) in data.items() if test is not None}
    if not tests:
        raise ConfigError(
            "baselines are compared per site, and no site has test data",
            hint="return (train, test) from data(site)",
        )
    start, local = run.described[1], budget(run)
    alone = {c: _trained(station, start, data[c][0], local, run.seed, c) for c in tests}
    pooled = station.kernel.pool([train for train, _ in data.values()])
    together = _trained(station, start, pooled, local, run.seed, "pooled")
    found = {"local": {c: _values(station, alone[c], t, run, c) for c, t in tests.items()}}
    for name, vector in (("federated", federated), ("pooled", together)):
        if vector is not None:
            found[name] = {c: _values(station, vector, t, run, c) for c, t in tests.items()}
    return found


def budget(run: Run) -> LocalTraining:
    """Return the local settings of the whole run in one go, without noise: it is to compare with.

    A strategy that fixes local training (FedSGD) has its rate at the server: that rate is taken.
    """
    local, server = run.local, run.strategy.server
    rate = getattr(server, "lr", 1.0) if run.strategy.fixed is not None else 1.0
    steps = None if local.steps is None else local.steps * run.rounds
    epochs = local.epochs * run.rounds
    return replace(local, lr=local.lr * rate, epochs=epochs, steps=steps, privacy=None)


def _trained(
    station: Station, start: Vector, data: Prepared, local: LocalTraining, seed: int, who: str
) -> Vector:
    station.kernel.train(start, data, Train(local), Turn(seed, 0, who), None)
    return station.kernel.vector()


def _values(
    station: Station, vector: Vector, test: Prepared, run: Run, client: str
) -> dict[str, Json]:
    turn = Turn(run.seed, run.rounds, client)
    return values(station.kernel.evaluate(vector, test, turn, None), run.task.metrics)
