"""A federation behind nginx, which passes TLS through by the file that the how-to page shows."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e.attack import credulous
from tests.e2e.deployed import Deployed, until

from hanse.up import Federation

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-nginx.md"
TWO = ("north", "west")
RUN = """\
task = "app:task"
data = "app:data"
[[pipeline]]
step = "weight"
by = "examples"
cap = 50
[[pipeline]]
step = "clip"
norm = 0.5
"""


def shown(folder: Path, listens: int, coordinator: int) -> str:
    """The page's file, with this machine's names, ports and places in it."""
    (text,) = re.findall(r"^```nginx\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for old, new in {
        "listen 443;": f"listen 127.0.0.1:{listens};",
        "coordinator.example.org 10.0.0.7:8443;": f"localhost 127.0.0.1:{coordinator};",
        "/run/nginx.pid": f"{folder}/pid",
        "/var/log/nginx": f"{folder}",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def nginx(folder: Path, coordinator: int) -> Iterator[int]:
    """A running nginx before the coordinator's port; the port on which it listens."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    assert program, "apt-get install nginx-light libnginx-mod-stream"
    folder.mkdir()
    port, file, errors = free_port(), folder / "nginx.conf", folder / "error.log"
    file.write_text(shown(folder, port, coordinator))
    words = [program, "-p", str(folder), "-c", str(file), "-e", str(errors), "-g", "daemon off;"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: process.poll() is not None or answers(port), 10)
        assert process.poll() is None, process.communicate()
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=10)


class Behind(Federation):
    """A federation that nobody reaches but through nginx: not to join, nor to submit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.front = ExitStack()

    def start_coordinator(self, port: int = 0) -> None:
        super().start_coordinator(port)
        direct = urlsplit(self.account.url).port
        assert direct
        listens = self.front.enter_context(nginx(self.folder / "nginx", direct))
        self.account = replace(self.account, url=f"https://localhost:{listens}")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.front.close()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Deployed]:
    deployed = Deployed(tmp_path, TWO)
    deployed.federation = Behind(tmp_path / "up", deployed.federation.sites)
    with deployed:
        yield deployed


def read(wrapped: ssl.SSLSocket) -> bytes:
    wrapped.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    return b"".join(iter(lambda: wrapped.recv(2**12), b""))


def test_a_run_through_nginx_ends_in_the_bits_of_its_simulation(behind):
    for site in TWO:
        assert behind.home(site).enrolled().url == behind.federation.account.url
    id = behind.send(behind.run_file(RUN, sites=TWO))
    simulated = behind.simulated(id)
    told = behind.end(id)
    assert told["outcome"] == "done", told["why"]
    assert behind.digest(id) == simulated.model_digest

    # Whoever names another host, or none, comes no further than nginx.
    port = urlsplit(behind.federation.account.url).port
    for name, reached in (("localhost", True), ("example.org", False), (None, False)):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
            if reached:
                with credulous().wrap_socket(plain, server_hostname=name) as wrapped:
                    assert b'{"status":"ok"}' in read(wrapped)
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    credulous().wrap_socket(plain, server_hostname=name)

    # Each connection was nginx's to carry, and is in its log when it has ended.
    for site in TWO:
        behind.federation.end(site)
    log = behind.folder / "up" / "nginx" / "hanse.log"
    until(lambda: any(int(line.split()[4]) > 10_000 for line in log.read_text().splitlines()))
    assert {line.split()[2] for line in log.read_text().splitlines()} >= {"localhost", "-"}
