"""Rounds of FedJAX: its ``fed_avg``, on the backend that it takes by itself (``jit``).

    fedjax_runner.py JOB

Speaks as ``runner.py`` does. The networks are the jobs' in Haiku, images with their channels last.
Initial weights come from the law that torch draws from, but are others: norms are not comparable.
"""

import sys
from collections.abc import Callable

import fedjax
import haiku as hk
import jax
import numpy as np
from jobs import JOBS, Rows, cohort
from meter import norms, rounds

DRAWN = hk.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")


def tiny(x: jax.Array) -> jax.Array:
    return hk.Linear(10, w_init=DRAWN)(x)


def cnn(x: jax.Array) -> jax.Array:
    layers = [
        hk.Conv2D(32, 3, padding="VALID", w_init=DRAWN), jax.nn.relu,
        hk.Conv2D(64, 3, padding="VALID", w_init=DRAWN), jax.nn.relu,
        hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID"),
        hk.Flatten(), hk.Linear(128, w_init=DRAWN), jax.nn.relu, hk.Linear(62, w_init=DRAWN),
    ]  # fmt: skip
    return hk.Sequential(layers)(x)


NETS: dict[str, Callable[[jax.Array], jax.Array]] = {"tiny": tiny, "cnn": cnn}


def prepared(rows: Rows) -> dict[str, np.ndarray]:
    x, y = rows
    return {"x": np.ascontiguousarray(np.moveaxis(x, 1, -1)) if x.ndim == 4 else x, "y": y}


def main() -> None:
    """Train until standard input ends."""
    job = JOBS[sys.argv[1]]
    data = {client: prepared(rows) for client, rows in job.data().items()}
    model = fedjax.create_model_from_haiku(
        transformed_forward_pass=hk.transform(lambda batch: NETS[job.net](batch["x"])),
        sample_batch={name: value[:1] for name, value in next(iter(data.values())).items()},
        train_loss=lambda batch, out: fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], out),
    )
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        grad_fn=fedjax.model_grad(model),
        client_optimizer=fedjax.optimizers.sgd(job.lr),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=job.batch, num_epochs=1),
    )
    population = fedjax.InMemoryFederatedData(data)
    state = algorithm.init(model.init(jax.random.PRNGKey(0)))

    def flat() -> np.ndarray:
        return np.concatenate([np.ravel(one) for one in jax.tree_util.tree_leaves(state.params)])

    start = flat()
    for number in rounds(lambda: norms(flat(), start)):
        chosen = cohort(job, [*data], number)
        keys = jax.random.split(jax.random.PRNGKey(number), len(chosen))
        found = population.get_clients(chosen)
        clients = [(name, rows, key) for (name, rows), key in zip(found, keys, strict=True)]
        state, _ = algorithm.apply(state, clients)
        jax.block_until_ready(state.params)


if __name__ == "__main__":
    main()
