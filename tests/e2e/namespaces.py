"""Two network namespaces with a wire between them, and a count of what goes anywhere else."""

import ctypes
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

NEW_NET = 0x40000000
COUNT = """
table inet watch {
  counter elsewhere {}
  chain out {
    type filter hook output priority 0;
    oif lo accept
    ip daddr 10.77.0.0/24 accept
    counter name elsewhere
  }
}
"""


def _run(*words: str, text: str | None = None) -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr} (apt: iproute2, nftables)"
    return done.stdout


class Namespace:
    """A machine of its own: ``address`` on the wire, a way out by default, and a watch on it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def words(self, *words: str) -> list[str]:
        """Return the command that runs ``words`` inside."""
        return ["ip", "netns", "exec", self.name, *words]

    def set_up(self, other: str) -> None:
        for line in (
            ("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"),
            ("ip", "link", "set", "lo", "up"),
            ("ip", "addr", "add", f"{self.address}/24", "dev", self.name),
            ("ip", "link", "set", self.name, "up"),
            ("ip", "route", "add", "default", "via", other),
        ):
            _run(*self.words(*line))
        _run(*self.words("nft", "-f", "-"), text=COUNT)

    def elsewhere(self) -> int:
        """Return how many packets left for any other address."""
        told = json.loads(_run(*self.words("nft", "-j", "list", "counters")))
        (packets,) = [row["counter"]["packets"] for row in told["nftables"] if "counter" in row]
        return packets

    @contextmanager
    def losing(self, hook: str, percent: int):
        """Lose so many of a hundred packets that come (``input``) or leave (``output``)."""
        rules = f"""
        table inet weather {{
          chain falling {{
            type filter hook {hook} priority 1;
            {"iif" if hook == "input" else "oif"} lo accept
            numgen random mod 100 <= {percent - 1} drop
          }}
        }}
        """
        _run(*self.words("nft", "-f", "-"), text=rules)
        try:
            yield
        finally:
            _run(*self.words("nft", "delete", "table", "inet", "weather"))

    def inside(self, work):
        """Return what ``work()`` returns in a thread that is in the namespace."""

        def there():
            fd = os.open(Path("/run/netns") / self.name, os.O_RDONLY)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.setns(fd, NEW_NET) == 0, os.strerror(ctypes.get_errno())
            finally:
                os.close(fd)
            return work()

        with ThreadPoolExecutor(1) as pool:  # a thread that ends: nobody else is in there
            return pool.submit(there).result()


@contextmanager
def two_machines():
    """Give two namespaces that see each other."""
    tag = f"{os.getpid() % 100000}"
    here, there = Namespace(f"hc{tag}", "10.77.0.1"), Namespace(f"hs{tag}", "10.77.0.2")
    made = []
    try:
        for one in (here, there):
            _run("ip", "netns", "add", one.name)
            made.append(one)
        pair = ("type", "veth", "peer", "name", there.name, "netns", there.name)
        _run("ip", "link", "add", here.name, "netns", here.name, *pair)
        here.set_up(there.address)
        there.set_up(here.address)
        yield here, there
    finally:
        for one in made:
            _run("ip", "netns", "del", one.name)
