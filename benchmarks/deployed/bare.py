"""The physical limit: the same vectors down and up over mutual TLS 1.3, and nothing else.

    python benchmarks/deployed/bare.py --sites 10 --mb 100 --rounds 5

One server process, one client process a site, kept-alive connections, chunks of 1 MiB, SHA-256 at
both ends, one fsynced file per upload. Prints one JSON object.
"""

import argparse
import hashlib
import http.client
import json
import multiprocessing
import os
import ssl
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from measure import Sampler, loopback

CHUNK = 2**20


def serve(folder: str, size: int, ready) -> None:
    """Serve one blob, take uploads."""
    import uvicorn

    blob = np.random.default_rng(0).random(size // 4, dtype=np.float32).tobytes()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            start = {"type": "http.response.start", "status": 200}
            headers = [(b"content-length", str(len(blob)).encode())]
            await send({**start, "headers": headers})
            for at in range(0, len(blob), CHUNK):
                more = at + CHUNK < len(blob)
                body = blob[at : at + CHUNK]
                await send({"type": "http.response.body", "body": body, "more_body": more})
            return
        hashed, name = hashlib.sha256(), scope["path"].strip("/")
        with open(Path(folder) / name, "wb") as file:
            more = True
            while more:
                message = await receive()
                hashed.update(message["body"])
                file.write(message["body"])
                more = message.get("more_body", False)
            file.flush()
            os.fsync(file.fileno())
        body = hashed.hexdigest().encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", loop="uvloop", log_level="critical",
        ssl_certfile=f"{folder}/server.pem", ssl_keyfile=f"{folder}/server.pem",
        ssl_ca_certs=f"{folder}/authority.pem", ssl_cert_reqs=ssl.CERT_REQUIRED, lifespan="off",
    )  # fmt: skip
    server = uvicorn.Server(config)

    class Told:
        def __init__(self, started):
            self.started = started

    import threading

    threading.Thread(target=_tell, args=(server, ready), daemon=True).start()
    server.run()


def _tell(server, ready) -> None:
    while not server.started:
        time.sleep(0.01)
    ready.put(server.servers[0].sockets[0].getsockname()[1])


def client(folder: str, name: str, port: int, size: int, go, done) -> None:
    """Round after round: fetch, add a constant, send."""
    context = ssl.create_default_context(cafile=f"{folder}/authority.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(f"{folder}/site.pem")
    line = http.client.HTTPSConnection("127.0.0.1", port, context=context)
    while go.get():
        line.request("GET", "/")
        answer, hashed = line.getresponse(), hashlib.sha256()
        got = bytearray()
        while chunk := answer.read(CHUNK):
            hashed.update(chunk)
            got += chunk
        vector = np.frombuffer(got, np.float32) + np.float32(1e-3)
        view = memoryview(vector).cast("B")
        mine = hashlib.sha256(view).hexdigest()
        pieces = (view[at : at + CHUNK] for at in range(0, len(view), CHUNK))
        line.request("PUT", f"/{name}", pieces, {"Content-Length": str(len(view))})
        assert line.getresponse().read().decode() == mine
        done.put(name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--mb", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    print(json.dumps(measure(told.sites, int(told.mb * 1e6) // 4 * 4, told.rounds)))


def measure(sites: int, size: int, rounds: int) -> dict[str, object]:
    """Return the medians of ``rounds`` rounds after one to warm up."""
    from hanse.net.authority import Authority, make_request

    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder), "bare")
        key, certificate = authority.issue_server(["127.0.0.1"], datetime.now(UTC))
        (Path(folder) / "server.pem").write_text(certificate + key)
        key, request = make_request("site")
        certificate = authority.issue_site(request, "site", datetime.now(UTC))
        (Path(folder) / "site.pem").write_text(certificate + key)
        spawn = multiprocessing.get_context("spawn")
        ready, done = spawn.Queue(), spawn.Queue()
        server = spawn.Process(target=serve, args=(folder, size, ready), daemon=True)
        server.start()
        port, gates, clients = ready.get(), [], []
        for number in range(sites):
            go = spawn.Queue()
            process = spawn.Process(
                target=client, args=(folder, f"s{number}", port, size, go, done), daemon=True
            )
            process.start()
            gates.append(go)
            clients.append(process)
        seconds, bytes_ = [], []
        roots = {"server": server.pid} | {f"site {n}": p.pid for n, p in enumerate(clients)}
        sampler = None
        for number in range(rounds + 1):
            if number == 1:
                sampler = Sampler(roots, "server").__enter__()
            began, carried = time.monotonic(), loopback()
            for go in gates:
                go.put(True)
            for _ in clients:
                done.get()
            if number:
                seconds.append(time.monotonic() - began)
                bytes_.append(loopback() - carried)
        sampler.__exit__()
        for go in gates:
            go.put(False)
        for process in clients:
            process.join(5)
        server.terminate()
        server.join(5)
        return {
            "system": "bare",
            "sites": sites,
            "bytes": size,
            "seconds": statistics.median(seconds),
            "cpu_s": sum(sampler.cpu.values()) / rounds,
            "server_cpu_s": sampler.cpu["server"] / rounds,
            "lo_bytes": statistics.median(bytes_),
            "server_peak": sampler.peak,
        }


if __name__ == "__main__":
    main()
