"""Write a job: FedAvg as NVFlare ships it for NumPy, from a random vector.

    cd benchmarks/deployed/peers/nvflare; python job.py SITES ROUNDS PARAMETERS FOLDER

The vector lies beside the job as ``start.npy``; the job has its path.
"""

import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe


def main() -> None:
    sites, rounds, parameters = map(int, sys.argv[1:4])
    folder = Path(sys.argv[4]).resolve()
    start = folder / "start.npy"
    np.save(start, np.random.default_rng(0).random(parameters, dtype=np.float32))
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        initial_ckpt=str(start),
        min_clients=sites,
        num_rounds=rounds,
        train_script="client.py",
    )
    recipe.export(str(folder))


if __name__ == "__main__":
    main()
