"""Databases that the tests start themselves: a file, and a real PostgreSQL server per worker."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest

START_S = 60


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs; the newest, where there are several."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=version)
    path = shutil.which(name) or (str(found[-1]) if found else None)
    assert path, f"PostgreSQL's {name} is not installed: these tests need its server"
    return path


def version(path: Path) -> int:
    return int(path.parts[-3])


def server_user() -> dict[str, str]:
    """Who runs the server: it refuses to be root's."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


@pytest.fixture(scope="session")
def postgres_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hanse-pg-") as name:
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(name, owner.pw_uid, owner.pw_gid)
        yield Path(name)


@pytest.fixture(scope="session")
def postgres_server(postgres_folder: Path) -> Iterator[str]:
    """A running server on a unix socket; its URL without a database's name."""
    data, socket = postgres_folder / "data", f"?host={postgres_folder}"
    setting = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]
    subprocess.run(
        [program("initdb"), *setting, f"--pgdata={data}"],
        check=True, cwd="/", stdout=subprocess.DEVNULL, **server_user(),
    )  # fmt: skip
    options = ["-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=40"]
    with open(postgres_folder / "log", "wb") as log:
        server = subprocess.Popen(
            [program("postgres"), "-D", str(data), "-k", str(postgres_folder), *options],
            cwd="/", stdout=log, stderr=log, **server_user(),
        )  # fmt: skip
    try:
        wait_for(f"postgresql://postgres@/postgres{socket}", server, postgres_folder / "log")
        yield f"postgresql://postgres@/%s{socket}"
    finally:
        server.send_signal(signal.SIGINT)  # ends its sessions, then itself
        server.wait(START_S)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return psycopg.connect(url).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
    pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")


NUMBERS = count(1)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    name = f"journal_{next(NUMBERS)}"
    with psycopg.connect(postgres_server % "postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        yield postgres_server % name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new journal can be opened, of either kind."""
    if request.param == "sqlite":
        return str(tmp_path / "journal.db")
    return request.getfixturevalue("postgres_url")
