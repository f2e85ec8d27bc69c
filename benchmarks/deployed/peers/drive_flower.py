"""Rounds of a deployed Flower on loopback, real processes and TLS, without training.

    python benchmarks/deployed/peers.py --only flower --sites 2 --mb 1 --rounds 2

One SuperLink and one SuperNode a site, started as their documentation shows for a deployment with
TLS; settings are the defaults. On: HTTPS to the SuperLink, from SuperNodes, ServerApp and ``flwr``.
Off: authentication of SuperNodes (an option of Flower's), TLS inside a site between SuperNode and
ClientApp (the default), installing an app's dependencies at run time, telemetry. A round ends
when the ServerApp has the average; the ServerApp itself writes the time. Start-up is timed from
the SuperLink's start to the line in which the last SuperNode tells its number.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from deployment import Deployment, answers, command, free_ports, measured, round_limit_s
from measure import now

from hanse.net.authority import Authority

HERE = Path(__file__).parent
BIN = HERE / ".venv-flower" / "bin"
ENVIRONMENT = {
    # A SuperLink looks for its helpers in PATH.
    "PATH": f"{BIN}:{os.environ['PATH']}",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}


def measure(sites: int, size: int, rounds: int) -> dict[str, object]:
    """Return the medians of ``rounds`` rounds after one to warm up."""
    with Deployment(ENVIRONMENT) as deployment:
        folder = deployment.folder
        certified(folder)
        port, *others = free_ports(1 + sites)
        began = now()
        start(deployment, port, others)
        started = now() - began
        submit(deployment, port, sites=sites, rounds=rounds + 1, parameters=size // 4)
        found = measured(
            deployment, lambda: ends(folder, sites), rounds, round_limit_s(sites, size)
        )
        told = {"system": "flower", "sites": sites, "bytes": size}
        return told | found | {"started_s": started}


def certified(folder: Path) -> None:
    """Make an authority and the SuperLink's certificate."""
    authority = Authority.create(folder, "bench")
    key, certificate = authority.issue_server(["127.0.0.1"], datetime.now(UTC))
    (folder / "server.key").write_text(key)
    (folder / "server.pem").write_text(certificate)


def start(deployment: Deployment, port: str, others: list[str]) -> None:
    """Start the SuperLink, then all SuperNodes, and wait until they are on line."""
    folder = deployment.folder
    deployment.started(
        "server", "flower-superlink", "--port", port, "--ssl-ca-certfile", "authority.pem",
        "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key",
        "--disable-runtime-dependency-installation", FLWR_HOME=f"{folder}/home",
    )  # fmt: skip
    deployment.until(lambda: answers(port), "the SuperLink listens", 60)
    names = [f"site {number}" for number in range(len(others))]
    for number, (name, other) in enumerate(zip(names, others, strict=True)):
        deployment.started(
            name, "flower-supernode", "--superlink", f"127.0.0.1:{port}", "--port", other,
            "--root-certificates", "authority.pem", "--node-config", f"site={number}",
            FLWR_HOME=f"{folder}/home {number}",
        )  # fmt: skip

    def on_line() -> bool:
        return all("SuperNode ID:" in deployment.log(name) for name in names)

    deployment.until(on_line, "all SuperNodes are on line", 60 + 10 * len(names))


def submit(deployment: Deployment, port: str, **settings: int) -> None:
    """Have the app run."""
    folder = deployment.folder
    app = shutil.copytree(HERE / "flower", folder / "app", ignore=shutil.ignore_patterns("__*"))
    home = folder / "home of the researcher"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.bench]\naddress = "127.0.0.1:{port}"\n'
        f'root-certificates = "{folder}/authority.pem"\n'
    )
    words = [f"{name}={value}" for name, value in settings.items()]
    words.append(f'marks="{folder}/marks"')
    deployment.done(
        "flwr", "run", str(app), "bench", "--run-config", " ".join(words),
        limit_s=60, FLWR_HOME=str(home),
    )  # fmt: skip


def ends(folder: Path, sites: int) -> list[float]:
    """Return when each round ended; RuntimeError if one is short of sites."""
    marks = folder / "marks"
    if not marks.exists():
        return []
    lines = [line.split() for line in marks.read_text().splitlines(keepends=True) if "\n" in line]
    if any(int(counted) != sites for _, counted in lines):
        raise RuntimeError(f"rounds of {[int(counted) for _, counted in lines]} sites, not {sites}")
    return [float(at) for at, _ in lines]


if __name__ == "__main__":
    command(measure)
