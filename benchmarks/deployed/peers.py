"""Rounds of Flower and NVFlare, deployed, beside Hanse and the bare transfer of the same bytes.

    python benchmarks/deployed/peers.py
    python benchmarks/deployed/peers.py --sites 10 --mb 1 --rounds 3
    python benchmarks/deployed/peers.py --only flower --sites 2 --mb 1 --rounds 2

Each peer gets an environment of its own, made on first use, with the versions in ``peers/*.txt``.
Nobody trains; all systems run in turn on this machine, with TLS on loopback. What is on and off in
each is in ``peers/drive_flower.py`` and ``peers/drive_nvflare.py``. Prints one JSON object a line,
then ratios to bare; without ``--only`` it writes ``benchmarks/results/peers.json``. A peer's
``server_peak`` is the sum over its server's processes, of which both have several.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from environments import made

HERE = Path(__file__).parent
PEERS = HERE / "peers"
CASES = ((10, 1.0, 3), (10, 100.0, 2))
SHORT = 20
"""Rounds of those that take a fraction of a second: fewer could not be told from what is around."""
SCRIPTS = {
    "bare": HERE / "bare.py",
    "hanse": HERE / "ours.py",
    "flower": PEERS / "drive_flower.py",
    "nvflare": PEERS / "drive_nvflare.py",
}


def measured(system: str, sites: int, mb: float, rounds: int) -> dict[str, float]:
    """Return what one script prints. It has time bounds of its own, and cleans up if stopped."""
    if system in ("bare", "hanse") and mb < 10:
        rounds = max(rounds, SHORT)
    words = ["--sites", str(sites), "--mb", str(mb), "--rounds", str(rounds)]
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{PEERS}"}
    command = [sys.executable, str(SCRIPTS[system]), *words]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{SCRIPTS[system].name} ends with {process.returncode}")
    return json.loads(printed.strip().splitlines()[-1])


def compared(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return and print each system's seconds, processor seconds and bytes as ratios to bare."""
    bare, ratios = found["bare"], {}
    for system, told in found.items():
        ratios[system] = {
            name: told[name] / bare[name] for name in ("seconds", "cpu_s", "lo_bytes")
        }
        if system != "bare":
            print(
                f"{system}, {told['sites']} sites × {told['bytes'] / 1e6:g} MB: "
                f"{told['seconds']:.2f} s a round ({ratios[system]['seconds']:.1f} × bare), "
                f"processor {ratios[system]['cpu_s']:.1f} × bare, "
                f"bytes {ratios[system]['lo_bytes']:.2f} × bare, "
                f"server {told['server_peak'] / 2**20:.0f} MiB; "
                f"on line after {told['started_s']:.1f} s"
            )
    return ratios


def asked() -> tuple[list[str], list[tuple[int, float, int]]]:
    """Return the systems and the cases that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int)
    parser.add_argument("--mb", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", choices=["flower", "nvflare"])
    told = parser.parse_args()
    systems = [told.only] if told.only else list(SCRIPTS)
    if told.sites is None and told.mb is None:
        return systems, [(sites, mb, told.rounds or rounds) for sites, mb, rounds in CASES]
    return systems, [(told.sites or 10, told.mb or 1.0, told.rounds or 3)]


def main() -> None:
    """Measure, print, keep."""
    systems, cases = asked()
    for system in set(systems) & {"flower", "nvflare"}:
        made(PEERS, system)
    kept = []
    for case in cases:
        found = {}
        for system in systems:
            found[system] = measured(system, *case)
            print(json.dumps(found[system]), flush=True)
        if "bare" in found:
            kept.append({"found": found, "ratios": compared(found)})
    if kept:
        path = HERE.parent / "results" / "peers.json"
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        path.write_text(json.dumps({"machine": machine, "cases": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
