"""A client's masks beside their keystream: seconds for a vector, and memory that does not grow.

    python benchmarks/crypto/masks.py [--parameters 1000000] [--neighbours 20] [--rounds 9]

One thread. ``floor`` is the keystream of as many bytes by AES-256-CTR, in blocks, and SHA-256 of
what is sent, in the same process and turn by turn; the figure is the median of the ratios.
``server`` takes off the masks of 100 clients of whom 10 are gone, each of whom was masked with the
``neighbours``: 90 seeds of their own and 10 times as many pairs. ``extra`` is what a client's peak
memory is above the vector itself.
"""

import argparse
import hashlib
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hanse.report.environment import environment
from hanse.secagg.masks import BLOCK, Mask, Masking
from hanse.secagg.ring import CHUNK, Segment

RESULTS = Path(__file__).parent.parent / "results" / "masks.json"


def masks(count: int) -> list[Mask]:
    return [Mask(os.urandom(32), 1 if place % 2 else -1) for place in range(count)]


def masking(segment: Segment, vector: np.ndarray, seeds: list[Mask]) -> None:
    """Mask, pack and digest a vector, chunk by chunk; what is packed goes nowhere."""
    adding, digest = Masking(seeds, 0), hashlib.sha256()
    for chunk in range(segment.chunks):
        part = vector[segment.part(chunk)].copy()
        adding.add(part, chunk)
        digest.update(segment.packed(part))
    digest.digest()


def floor(size: int, count: int) -> None:
    zeros, out, digest = bytes(BLOCK), bytearray(BLOCK), hashlib.sha256()
    for _ in range(count):
        stream = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
        for start in range(0, size, BLOCK):
            part = min(BLOCK, size - start)
            stream.update_into(zeros[:part], memoryview(out)[:part])
    for start in range(0, size, BLOCK):
        digest.update(zeros[: min(BLOCK, size - start)])
    digest.digest()


def seconds(done: Callable[[], None]) -> float:
    began = time.perf_counter()
    done()
    return time.perf_counter() - began


def two_threads(segment: Segment, vector: np.ndarray, seeds: list[Mask]) -> None:
    """The same by halves of the chunks."""
    half = segment.chunks // 2 * CHUNK
    parts = [vector[:half], vector[half:]]
    threads = [
        threading.Thread(target=masking, args=(Segment("x", len(p), 32, 32), p, seeds))
        for p in parts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def extra(size: int, count: int) -> int:
    """Return the bytes of a child process's peak above what it had before it masked."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        segment, vector = Segment("x", size), np.ones(size, "<u4")
        seeds = masks(count)
        masking(Segment("x", 1000), vector[:1000], seeds)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = _peak()
        masking(segment, vector, seeds)
        os.write(writing, str(_peak() - before).encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 64)
    os.waitpid(child, 0)
    return int(told)


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    segment, count = Segment("x", given.parameters), given.neighbours + 1
    vector = np.random.default_rng(0).integers(0, 2**32, given.parameters, dtype="<u4")
    seeds, gone = masks(count), masks(90 + 10 * given.neighbours)
    client, ratios, server, threads = (list[float]() for _ in range(4))
    big = np.resize(vector, 8 * CHUNK)
    for _ in range(given.rounds):
        least = seconds(lambda: floor(4 * given.parameters, count))
        client.append(seconds(lambda: masking(segment, vector, seeds)))
        ratios.append(client[-1] / least)
        server.append(seconds(lambda: Masking(gone, 0).add(vector.copy()[:CHUNK], 0)))
        one = seconds(lambda: masking(Segment("x", 8 * CHUNK), big, seeds))
        threads.append(one / seconds(lambda: two_threads(segment, big, seeds)))
    told = {
        "parameters": given.parameters,
        "neighbours": given.neighbours,
        "client_s": statistics.median(client),
        "client_over_floor": statistics.median(ratios),
        "server_s": statistics.median(server),
        "two_threads": statistics.median(threads),
        "extra_bytes_at_1e7": extra(10_000_000, count),
    }
    print(json.dumps(told, indent=1))
    RESULTS.write_text(json.dumps({**told, "environment": environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
