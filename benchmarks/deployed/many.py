"""What many sites cost the coordinator: processor and memory while idle, memory in a round.

    python benchmarks/deployed/many.py --idle 200
    python benchmarks/deployed/many.py --sites 100 --mb 25 --rounds 3

The coordinator is a real process behind mutual TLS 1.3. The sites are threads of this process:
agents as they are when idle, and in rounds the protocol alone, all with one random share.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from measure import Sampler, cpu_s, now
from ours import written

from hanse.config.parse import parse
from hanse.core.frames import share_frame
from hanse.core.listing import Listing
from hanse.net.account import news, submit
from hanse.net.transfer import upload
from hanse.site.agent import Agent
from hanse.site.enrol import dial
from hanse.site.policy import accept_roster
from hanse.up import Federation, _remove


def enrolled(federation: Federation, names: list[str]) -> None:
    """Let every site join."""
    line = federation.account.dial()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(federation._enrol, [line] * len(names), names))
    told: Any = line.request("GET", "/v1/sites").json()
    for name in names:
        accept_roster(federation.site_home(name).policy, told["roster"])


def idle(sites: int, seconds: float) -> dict[str, object]:
    """Return what the coordinator takes while ``sites`` agents wait for work."""
    names = [f"site-{number}" for number in range(sites)]
    folder = Path(tempfile.mkdtemp(prefix="hanse-bench-"))
    try:
        with Federation(folder, {}) as federation:
            enrolled(federation, names)
            agents = [Agent(federation.site_home(n), folder, {}, lambda _: None) for n in names]
            for agent in agents:
                threading.Thread(target=agent.run, daemon=True).start()
            while not all(agent.is_online for agent in agents):
                time.sleep(0.1)
            time.sleep(5)
            pid = federation.processes["coordinator"].pid
            before = cpu_s(pid)
            with Sampler({"coordinator": pid}, "coordinator") as sampler:
                time.sleep(seconds)
            used = (cpu_s(pid) - before) / seconds
            assert all(agent.is_online for agent in agents)
            for agent in agents:
                agent.stop()
        return {
            "idle_sites": sites,
            "core": used,
            "server_peak": sampler.peak,
            "server_anonymous": sampler.anonymous,
        }
    finally:
        _remove(folder)


def busy(sites: int, size: int, rounds: int, strategy: str = "fedavg") -> dict[str, object]:
    """Return the coordinator's peak while ``sites`` sites send a share of ``size`` bytes each."""
    os.environ["HANSE_BENCH_PARAMETERS"] = str(size // 4)
    names = [f"site-{number}" for number in range(sites)]
    folder = Path(tempfile.mkdtemp(prefix="hanse-bench-"))
    try:
        run = parse(written(folder, names, rounds, strategy)).load()
        bound = run.spec.bound
        frame = share_frame(bound)
        tensors = {name: np.zeros(n, dtype) for name, dtype, n in frame.tensors}
        tensors["model"][:] = np.random.default_rng(0).normal(0, 1e-3, tensors["model"].size)
        share = frame.pack(tensors)
        listing = Listing.of(share)
        with Federation(folder, {}) as federation:
            enrolled(federation, names)
            began = now()
            line = federation.account.dial()
            id = submit(line, run)
            threads = [
                threading.Thread(
                    target=take_part, args=(federation, name, share, listing), daemon=True
                )
                for name in names
            ]
            for thread in threads:
                thread.start()
            pid = federation.processes["coordinator"].pid
            with Sampler({"coordinator": pid}, "coordinator") as sampler:
                for _ in news(line, id):
                    federation.check_alive()
            told: Any = line.request("GET", f"/v1/runs/{id}/history").json()
        counted = [len(row["counted"]) for row in told["history"]]
        assert counted == [sites] * rounds, counted
        return {
            "sites": sites,
            "bytes": size,
            "strategy": strategy,
            "seconds": (now() - began) / rounds,
            "server_peak": sampler.peak,
            "server_anonymous": sampler.anonymous,
        }
    finally:
        _remove(folder)


def take_part(federation: Federation, name: str, share: bytearray, listing: Listing) -> None:
    """Answer what the coordinator asks, as a site would that trains in no time."""
    line, have = dial(federation.site_home(name)), ""
    while True:
        told: Any = line.request("POST", "/v1/poll", {"have": have, "wait": 20, "doing": ""}).json()
        have = told["version"]
        for asked in told["assignments"]:
            have = ""
            path = f"/v1/runs/{asked['run']}/{asked['round']}/{asked['kind']}"
            if asked["kind"] == "train":
                with line.stream(f"/v1/blobs/{asked['blob']}/chunks/0") as incoming:
                    while incoming.read(2**20):
                        pass
                upload(line, path, share, listing)
                continue
            prepared = {"accepted": True, "fingerprint": "f" * 64}
            body = prepared if asked["kind"] == "prepare" else {}
            line.request("POST", path, {"body": body})
            if asked["kind"] == "finish":
                return


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--idle", type=int, default=0, help="that many idle sites, and no run")
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--mb", type=float, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--strategy", default="fedavg")
    told = parser.parse_args()
    if told.idle:
        print(json.dumps(idle(told.idle, 60)))
    else:
        size = int(told.mb * 1e6) // 4 * 4
        print(json.dumps(busy(told.sites, size, told.rounds, told.strategy)))


if __name__ == "__main__":
    main()
