"""Rounds of a deployed Hanse beside the bare transfer of the same bytes, in turn, as ratios.

    python benchmarks/deployed/compare.py

Sites and coordinator are real processes over mutual TLS 1.3 on loopback; nobody trains. Writes
``benchmarks/results/deployed.json``.
"""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CASES = ((10, 1.0, 20), (10, 100.0, 3))


def measured(script: str, sites: int, mb: float, rounds: int) -> dict[str, float]:
    """Return what one script prints."""
    words = ["--sites", str(sites), "--mb", str(mb), "--rounds", str(rounds)]
    done = subprocess.run(
        [sys.executable, str(HERE / script), *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    """Measure, print, keep."""
    found = []
    for sites, mb, rounds in CASES:
        bare, ours = (measured(name, sites, mb, rounds) for name in ("bare.py", "ours.py"))
        seconds = ours["seconds"] / bare["seconds"]
        cpu = ours["cpu_s"] / bare["cpu_s"]
        carried = ours["lo_bytes"] / (2 * sites * mb * 1e6)
        print(
            f"{sites} sites × {mb:g} MB: {ours['seconds']:.2f} s a round ({seconds:.2f} × bare), "
            f"processor {cpu:.2f} × bare, bytes {carried:.3f} × model down and up; "
            f"on line after {ours['started_s']:.1f} s"
        )
        found.append({"bare": bare, "hanse": ours, "seconds": seconds, "cpu": cpu})
    path = HERE.parent / "results" / "deployed.json"
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
