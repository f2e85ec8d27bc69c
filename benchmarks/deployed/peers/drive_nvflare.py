"""Rounds of a deployed NVFlare on loopback, real processes and mutual TLS, without training.

    python benchmarks/deployed/peers.py --only nvflare --sites 2 --mb 1 --rounds 2

``nvflare poc prepare`` writes the kits; server and sites run from them as ``start.sh`` runs them,
under the watchdog script of each kit, which waits 5 s before it starts anything. Settings are the
defaults: mutual TLS from site to server, none between the processes of one site. The server is
named ``localhost`` so that it listens there alone. The job is the NumPy FedAvg recipe as shipped,
its client script in the job's process (the default). A round ends when the server's job logs that
the next one starts, the last when it logs the end of FedAvg; saving the model is in the round.
Start-up is timed from the start of the server's script, the sites' right after it, to the server's
line that the last site registered; ``prepare`` is not in it.
"""

import json
import os
import re
from datetime import datetime
from pathlib import Path

from deployment import Deployment, command, free_ports, measured, round_limit_s
from measure import now

HERE = Path(__file__).parent
BIN = HERE / ".venv-nvflare" / "bin"
ENVIRONMENT = {"PATH": f"{BIN}:{os.environ['PATH']}"}  # the kits run the first python3
ENDS = re.compile(
    r"^(\S+ \S+) - FedAvg .*\n[-=]+\n *(?:Round [1-9]\d* started|Finished FedAvg)\.", re.MULTILINE
)
COUNTED = re.compile(r"Aggregated (\d+)/\1 results")
ADMIN = "admin@hanse.bench"
BUILDERS = {
    "workspace.WorkspaceBuilder": {"template_file": ["master_template.yml"]},
    "static_file.StaticFileBuilder": {"config_folder": "config"},
    "cert.CertBuilder": {},
    "signature.SignatureBuilder": {},
}


def measure(sites: int, size: int, rounds: int) -> dict[str, object]:
    """Return the medians of ``rounds`` rounds after one to warm up."""
    with Deployment(ENVIRONMENT) as deployment:
        names = [f"site-{number + 1}" for number in range(sites)]
        kits = prepared(deployment, names)
        began = now()
        start(deployment, kits, names)
        started = now() - began
        submit(deployment, kits, str(sites), str(rounds + 1), str(size // 4))
        limit_s = round_limit_s(sites, size)
        found = measured(deployment, lambda: ends(kits / "localhost", sites), rounds, limit_s)
        return {"system": "nvflare", "sites": sites, "bytes": size} | found | {"started_s": started}


def prepared(deployment: Deployment, names: list[str]) -> Path:
    """Have NVFlare write the kits of all; return their folder."""
    folder, (port,) = deployment.folder, free_ports(1)
    deployment.environment |= {"HOME": str(folder), "NVFLARE_POC_WORKSPACE": f"{folder}/poc"}
    server = {"name": "localhost", "type": "server", "fed_learn_port": int(port)}
    admin = {"name": ADMIN, "type": "admin", "role": "project_admin"}
    clients = [{"name": name, "type": "client"} for name in names]
    project = {
        "api_version": 3,
        "name": "bench",
        "description": "",
        "participants": [{"org": "bench"} | one for one in (server, admin, *clients)],
        "builders": [{"path": f"nvflare.lighter.impl.{n}", "args": a} for n, a in BUILDERS.items()],
    }
    (folder / "project.yml").write_text(json.dumps(project))  # JSON is YAML
    deployment.done("nvflare", "poc", "prepare", "-i", "project.yml", limit_s=60 + 5 * len(names))
    return folder / "poc" / "bench" / "prod_00"


def start(deployment: Deployment, kits: Path, names: list[str]) -> None:
    """Start the server and all sites, and wait until they are on line."""
    for name, kit in (("server", "localhost"), *zip(names, names, strict=True)):
        deployment.started(name, str(kits / kit / "startup" / "sub_start.sh"))

    def on_line() -> bool:
        log = deployment.log("server")
        return all(f"client {name} registered" in log for name in names)

    deployment.until(on_line, "all sites are on line", 60 + 10 * len(names))


def submit(deployment: Deployment, kits: Path, *words: str) -> None:
    """Write the job and hand it in."""
    folder = str(deployment.folder)
    deployment.done("python", "job.py", *words, folder, limit_s=120, cwd=HERE / "nvflare")
    deployment.done(
        "nvflare", "job", "submit", "-j", f"{folder}/rounds", "--startup-kit", str(kits / ADMIN),
        limit_s=120,
    )  # fmt: skip


def ends(server: Path, sites: int) -> list[float]:
    """Return when each round ended, as the server's job logs it; RuntimeError if sites lack."""
    log = "".join(path.read_text(errors="replace") for path in server.glob("*/log.txt"))
    found = [datetime.fromisoformat(at.replace(",", ".")).timestamp() for at in ENDS.findall(log)]
    if COUNTED.findall(log)[: len(found)] != [str(sites)] * len(found):
        raise RuntimeError(f"a round without all {sites} sites:\n{log[-3000:]}")
    return found


if __name__ == "__main__":
    command(measure)
