"""A coordinator in small: real TLS, real signatures, blobs and uploads in memory."""

import asyncio
import hashlib
import json
import secrets
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hanse.core.listing import CHUNK, Listing
from hanse.errors import HanseError
from hanse.net.authority import Authority, make_request, server_context
from hanse.net.bodies import IncomingBlob, blob_response, read_body
from hanse.net.client import Connection
from hanse.net.guard import Limits
from hanse.net.keys import IdentityKey, verify
from hanse.net.problems import MEDIA_TYPE, Missing, NotTrusted, SessionLost, answer
from hanse.net.server import Server
from hanse.net.session import SignedConnection
from hanse.net.signing import Window, digest_of, request_text, response_text

HOUR = timedelta(hours=1)
RECEIPT = {"counted": True}


class Small:
    """Certificates and keys in ``folder``, the state of the app, and the app itself."""

    def __init__(self, folder, *, hosts=("localhost", "127.0.0.1"), site="cleveland"):
        self.folder, self.site = folder, site
        (folder / "ca").mkdir()
        self.authority = Authority.create(folder / "ca", "tests")
        self.ca_pem = self.authority.certificate_pem
        self.ca_file = self._write("ca.pem", self.ca_pem)
        self.key = IdentityKey.create(folder / "coordinator.key")
        self.site_key = IdentityKey.create(folder / "site.key")
        self.certify(hosts)
        self.site_files = self.site_certificate()
        self.windows, self.challenges = {}, set()
        self.blobs, self.uploads, self.uploading, self.puts = {}, {}, {}, 0
        self.size = 0  # of the blob that an upload has to be
        self.begun = threading.Event()  # a request to /v1/wait has begun
        self.ended = []  # how requests to /v1/wait ended
        routes = [
            Route("/v1/ca", self.ca),
            Route("/v1/who", self.who),
            Route("/v1/wait", self.wait),
            Route("/v1/limited", self.limited, methods=["POST"]),
            Route("/v1/slow", self.slow, methods=["POST"]),
            Route("/v1/chunks/{size:int}", self.chunked, methods=["PUT"]),
            Route("/v1/challenge", self.challenge, methods=["POST"]),
            Route("/v1/session", self.session, methods=["POST"]),
            Route("/v1/echo", self.echo, methods=["POST"]),
            Route("/v1/forged", self.forged, methods=["POST"]),
            Route("/v1/blobs/{blob}/chunks/{first:int}", self.blob),
            Route("/v1/runs/{run}/{round}/{kind}/chunks/{first:int}", self.put, methods=["PUT"]),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HanseError: self.problem})

    # Files

    def _write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def certify(self, hosts=("localhost", "127.0.0.1"), *, now=None):
        key, certificate = self.authority.issue_server(hosts, now or datetime.now(UTC))
        self.server_files = self._write("server.pem", certificate), self._write("server.key", key)

    def site_certificate(self, *, now=None, name="site"):
        key, csr = make_request(self.site)
        certificate = self.authority.issue_site(csr, self.site, now or datetime.now(UTC))
        return self._write(f"{name}.pem", certificate), self._write(f"{name}-tls.key", key)

    # Ends

    @contextmanager
    def serving(self, limits=None, **options):
        context = server_context(*self.server_files, self.ca_file)
        server = Server(self.app, "127.0.0.1", 0, context, limits=limits or Limits(), **options)
        server.start()
        try:
            yield server
        finally:
            server.stop()

    def dial(self, port, *, host="localhost", files=None, **options):
        options.setdefault("proxy", "")
        files = self.site_files if files is None else files
        return Connection(f"https://{host}:{port}", self.ca_pem, *files, **options)

    def sign(self, port, **options):
        return SignedConnection(
            self.dial(port, **options), self.site, self.site_key, self.key.public
        )

    def hold(self, content):
        """Offer ``content`` and return its id."""
        listing = Listing.of(content)
        self.blobs[listing.id] = listing, content
        return listing.id

    # Routes

    async def problem(self, request, error):
        status, body = answer(error)
        return self.signed(request, status, body, MEDIA_TYPE)

    def signed(self, request, status, body, media_type="application/json"):
        of = request.headers.get("hanse-signature", "")
        text = response_text(of, status, digest_of(body))
        headers = {"hanse-signature": self.key.sign(text)}
        return Response(body, status, headers, media_type)

    def said(self, request, value):
        return self.signed(request, 200, json.dumps(value).encode())

    def check(self, request, digest, session, sequence):
        path = request.scope["raw_path"].decode()
        text = request_text(
            self.key.public, request.method, path, session=session, sequence=sequence, digest=digest
        )
        if not verify(self.site_key.public, text, request.headers.get("hanse-signature", "")):
            raise NotTrusted("wrong signature")

    def admit(self, request, digest):
        session = request.headers["hanse-session"]
        if session not in self.windows:
            raise SessionLost("unknown session")
        sequence = int(request.headers["hanse-sequence"])
        self.check(request, digest, session, sequence)
        self.windows[session] = self.windows[session].accept(sequence)

    async def ca(self, request):
        return Response(self.ca_pem, media_type="application/x-pem-file")

    async def who(self, request):
        peer = request.scope["extensions"]["hanse"]
        shown = peer["certificate"]
        return JSONResponse({"name": peer["name"], "certificate": shown and digest_of(shown)})

    async def wait(self, request):
        self.begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise

    async def limited(self, request):
        return JSONResponse(len(await read_body(request, 1000)))

    async def slow(self, request):
        await asyncio.sleep(1.5)
        return JSONResponse(len(await read_body(request, 2**24)))

    async def chunked(self, request):
        """Say what came of a blob of so many bytes: the digest of its chunks together."""
        size, hashed = request.path_params["size"], hashlib.sha256()
        incoming = IncomingBlob(request, size, 0, 2**18)
        while piece := await incoming.piece():
            hashed.update(piece)
            await asyncio.sleep(0.1)  # more comes while nobody reads
        return JSONResponse(hashed.hexdigest())

    async def challenge(self, request):
        self.challenges.add(challenge := secrets.token_hex(32))
        return self.said(request, {"challenge": challenge})

    async def session(self, request):
        body = await read_body(request, 1000)
        told = json.loads(body)
        if told["challenge"] not in self.challenges:
            raise NotTrusted("unknown challenge")
        self.challenges.remove(told["challenge"])
        self.check(request, digest_of(body), told["challenge"], 0)
        self.windows[session := secrets.token_hex(16)] = Window()
        return self.said(request, {"session": session})

    async def echo(self, request):
        body = await read_body(request, 10_000)
        self.admit(request, digest_of(body))
        return self.said(request, json.loads(body))

    async def forged(self, request):
        return Response(b"{}", headers={"hanse-signature": IdentityKey.load(
            self.folder / "site.key").sign(b"something else")})  # fmt: skip

    async def blob(self, request):
        if request.path_params["blob"] not in self.blobs:
            raise Missing("no such blob")
        listing, content = self.blobs[request.path_params["blob"]]
        content = memoryview(content)
        first = request.path_params["first"]
        starts = range(first * CHUNK, len(content), CHUNK)
        chunks = (content[start : start + CHUNK] for start in starts)
        return blob_response(listing, first, chunks)

    async def put(self, request):
        self.puts += 1
        path, _, _ = request.url.path.partition("/chunks/")
        id, first = request.headers["hanse-digest"], request.path_params["first"]
        self.admit(request, id)
        incoming = IncomingBlob(request, self.size, first, 2**18)
        listing = await incoming.listing(id)
        chunks, chunk = self.uploading.setdefault(path, []), bytearray()
        while first == len(chunks) and (piece := await incoming.piece()):
            chunk += piece
            if len(chunk) == listing.length(first):
                assert digest_of(chunk) == listing.chunks[first].hex()
                chunks.append(bytes(chunk))
                chunk, first = bytearray(), first + 1
        if len(chunks) < len(listing.chunks):
            return self.said(request, {"from": len(chunks), "state": "missing"})
        self.uploads[path] = b"".join(chunks)
        return self.said(request, {"receipt": RECEIPT, "state": "taken"})
