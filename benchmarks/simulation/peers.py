"""The simulators of pfl-research, Flower and FedJAX beside Hanse's engines, on the same jobs.

    python benchmarks/simulation/peers.py [--only pfl flower] [--jobs tiny cnn] [--rounds 5]

Each peer gets an environment of its own, made on first use, with the versions in ``peers/*.txt``.
All have the same data, cohorts, batch size and learning rate, and take turns as in ``compare.py``,
in the same run. pfl and FedJAX are one process on processor 0, Flower has two actors with Ray: its
wall is to be read beside that of ``exact-2``. After two rounds, the weights of what runs in torch
must be as long as those of the naive loop, and have gone as far: who computes something else is not
compared. Results are written to benchmarks/results/simulation-peers.json, in the place of those of
the same jobs.
"""

import argparse
import json
import os
import secrets
import sys

from compare import BOUND, HERE, Side, compared, ours
from jobs import JOBS
from meter import MARK

from hanse.report.environment import environment

sys.path.append(str(HERE.parent))

from environments import made, versions

PEERS = HERE / "peers"
RESULTS = HERE.parent / "results" / "simulation-peers.json"
CAN = {
    "pfl": ("tiny", "mlp", "cnn", "lenet", "silo", "lstm"),
    "flower": ("tiny", "mlp", "cnn", "lenet", "silo", "lstm"),
    "fedjax": ("tiny", "cnn"),
}
TORCH = ("pfl", "flower")
OURS = ("exact", "exact-2", "batched")
BATCHED = ("tiny", "mlp")
NAMED = ("pfl", "flwr", "ray", "fedjax", "jax", "jaxlib", "torch", "numpy")
LIMITS = {"norm": 0.01, "moved": 0.15}
"""How far a peer's norms may be from the naive loop's, as a part of them: batches differ."""


def started(job: str, name: str) -> Side:
    """Start a peer, or a side of our own."""
    if name not in CAN:
        return ours(job, name)
    python = made(PEERS, name)
    modules = os.pathsep.join(map(str, (HERE, HERE.parents[1] / "src")))
    bound = [] if name == "flower" else BOUND
    words = [*bound, str(python), str(PEERS / f"{name}_runner.py"), job]
    more = {"PYTHONPATH": modules, MARK: secrets.token_hex(8), "FLWR_TELEMETRY_ENABLED": "0"}
    return Side(words, JOBS[job].rounds, **more)


def checked(job: str, peer: str, found: dict[str, dict[str, float]]) -> None:
    """Print how far a peer's weights are from the naive loop's after two rounds; end if too far."""
    for what, limit in LIMITS.items():
        away = found[peer][what] / found["naive"][what] - 1
        print(f"{job}: {peer}'s {what} is {away:+.4f} from the naive loop's", file=sys.stderr)
        if peer in TORCH and abs(away) > limit:
            raise SystemExit(f"{peer} computes something else")


def main() -> None:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[*CAN], choices=[*CAN])
    parser.add_argument("--jobs", nargs="+", default=["tiny", "cnn", "lenet", "silo"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    told = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"jobs": {}, "versions": {}}
    for peer in arguments.only:
        installed = versions(made(PEERS, peer))
        told["versions"][peer] = {name: installed[name] for name in NAMED if name in installed}
    for job in arguments.jobs:
        mine = [name for name in OURS if name != "batched" or job in BATCHED]
        peers = [peer for peer in arguments.only if job in CAN[peer]]
        found = compared(job, [*mine, *peers], arguments.rounds, started)
        for peer in peers:
            checked(job, peer, found)
            for side in mine:
                keys = ("cpu_ratio", "wall_ratio")
                cpu, wall = (found[peer][key] / found[side][key] for key in keys)
                print(f"{job}: {peer} takes {cpu:.2f} × the processor time of {side}, "
                      f"{wall:.2f} × its wall", flush=True)  # fmt: skip
        told["jobs"][job] = found
        RESULTS.write_text(json.dumps({**told, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
