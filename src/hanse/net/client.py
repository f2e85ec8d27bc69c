"""The dialling end: HTTP/1.1 over TLS 1.3 to one coordinator, whose authority alone is trusted.

Connections are kept and shared by threads. Nothing is repeated here: whoever asks knows whether
asking twice is harmless. A proxy that is named, or that the environment names (``https_proxy``,
``no_proxy``), is asked for a tunnel (CONNECT, RFC 9110 §9.3.6) and sees no byte in the clear.
"""

import hashlib
import hmac
import ssl
import threading
import warnings
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from urllib3 import (
    BaseHTTPResponse,
    HTTPConnectionPool,
    PoolManager,
    ProxyManager,
    Timeout,
    make_headers,
)
from urllib3.exceptions import HTTPError, InsecureRequestWarning, LocationParseError

from hanse.core.canonical import Json, encode
from hanse.errors import ConfigError, ProtocolError
from hanse.net.authority import client_context
from hanse.net.failures import failure
from hanse.net.problems import NotTrusted, error_of, json_of

CONNECT_S = 15
ANSWER_S = 60  # more than the 25 s that a poll may wait
MOST_BODY = 8 * 2**20
POOLED = 8
_WARNINGS = threading.Lock()
"""``catch_warnings`` changes the whole process: one thread at a time."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that was read whole. Names of headers are in lower case."""

    asked: str
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json(self) -> Json:
        """Return the body's value; ProtocolError if it is no JSON."""
        return json_of(self.body)

    def accepted(self) -> "Response":
        """Return the response itself; raise the error that it tells of, if it does."""
        if not 200 <= self.status < 300:
            raise error_of(self.asked, self.status, self.body)
        return self


class Incoming:
    """A response's body as it arrives. ``size``: its bytes, as announced."""

    def __init__(self, response: BaseHTTPResponse, connection: "Connection") -> None:
        """Read from ``response``, which ``connection`` got."""
        self.size = int(response.headers.get("content-length", -1))
        self._response, self._connection = response, connection

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes, fewer at the end only; TransportError if it is cut."""
        try:
            data = self._response.read(size, decode_content=False)
            # What is cut comes as fewer bytes first; only the next call says that it was cut.
            while len(data) < size and (more := self._response.read(size - len(data))):
                data += more
            return data
        except (HTTPError, OSError) as error:
            raise self._connection.failed(error) from error


class Connection:
    """A way to the coordinator at ``url`` (``https://host:port``), for any number of threads.

    ``ca_pem``: the only authority whose certificates count. ``cert_file`` (and ``key_file``): the
    client certificate. ``bearer``: a token for the Authorization header. ``proxy``: the URL of a
    proxy; None takes what the environment says, the empty text none. ConfigError for a URL or
    files that cannot be used.
    """

    def __init__(
        self,
        url: str,
        ca_pem: str,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        *,
        bearer: str | None = None,
        proxy: str | None = None,
    ) -> None:
        """Nothing is dialled before the first request."""
        self.url = _checked(url)
        self.address = urlsplit(self.url).netloc
        self._trust = ca_pem, cert_file, key_file
        self._headers = {"User-Agent": "hanse"}
        if bearer is not None:
            self._headers["Authorization"] = f"Bearer {bearer}"
        self._proxy = _proxy_of(self.url) if proxy is None else proxy
        self.reload()

    def __repr__(self) -> str:
        return f"Connection({self.url!r})"

    def reload(self) -> None:
        """Read the client certificate again; requests under way end as they began."""
        self._pool = _pool(self.url, client_context(*self._trust), self._proxy)

    def request(
        self, method: str, path: str, body: Json = None, *, timeout_s: float = ANSWER_S
    ) -> Response:
        """Send ``body`` as canonical JSON (None: no body) and return the answer.

        Raises the error of §7 that the answer tells of, or TransportError if there is none.
        """
        content = b"" if body is None else encode(body).encode()
        return self.exchange(method, path, content, timeout_s=timeout_s).accepted()

    def exchange(
        self,
        method: str,
        path: str,
        content: "bytes | Iterable[memoryview]" = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ANSWER_S,
    ) -> Response:
        """Send ``content`` and return the answer, whatever its status.

        ``content`` in pieces takes a Content-Length in ``headers``. ProtocolError for an answer
        of more than 8 MiB, TransportError if there is none.
        """
        sent = {"Content-Type": "application/json", **(headers or {})} if content else headers
        with self._opened(method, path, content, sent or {}, timeout_s) as response:
            body = Incoming(response, self).read(MOST_BODY + 1)
            if len(body) > MOST_BODY:
                raise ProtocolError(f"{method} {path}: an answer of more than {MOST_BODY} bytes")
            named = {name.lower(): value for name, value in response.headers.items()}
            return Response(f"{method} {path}", response.status, named, body)

    @contextmanager
    def stream(
        self, path: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = ANSWER_S
    ) -> Generator[Incoming]:
        """GET ``path`` and give its body as it arrives; errors as of :meth:`request`.

        ``timeout_s`` is for each wait: a slow body is no error as long as it comes.
        """
        with self._opened("GET", path, b"", headers or {}, timeout_s) as response:
            incoming = Incoming(response, self)
            if not 200 <= response.status < 300:
                raise error_of(f"GET {path}", response.status, incoming.read(MOST_BODY))
            yield incoming

    @contextmanager
    def _opened(
        self,
        method: str,
        path: str,
        content: "bytes | Iterable[memoryview]",
        headers: Mapping[str, str],
        timeout_s: float,
    ) -> Generator[BaseHTTPResponse]:
        """Send a request; leaving gives its connection back if the body was read whole."""
        try:
            response = self._pool.urlopen(
                method,
                path,
                body=cast("bytes", content) or None,  # pieces may be views; its types say bytes
                headers={**self._headers, **headers},
                timeout=Timeout(connect=CONNECT_S, read=timeout_s),
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (HTTPError, OSError) as error:
            raise self.failed(error) from error
        try:
            yield response
        finally:
            response.close()  # one that was read whole has given its connection back already

    def failed(self, error: Exception) -> Exception:
        """Return what ``error`` of the HTTP library means here."""
        return failure(error, self.address, urlsplit(self._proxy).netloc.rpartition("@")[2])

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()


def fetch_authority(url: str, ca_fingerprint: str, *, proxy: str | None = None) -> str:
    """Return the certificate of the coordinator's authority in PEM.

    It is asked over TLS that nothing vouches for yet, and counts only if the SHA-256 of its DER is
    ``ca_fingerprint`` (lower-case hex), which the invitation told: NotTrusted if it differs.
    """
    url = _checked(url)
    proxy = _proxy_of(url) if proxy is None else proxy
    pool = _pool(url, _credulous(), proxy)
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            response = pool.urlopen(
                "GET", "/v1/ca", headers={"User-Agent": "hanse"}, retries=False, redirect=False,
                timeout=Timeout(connect=CONNECT_S, read=ANSWER_S), preload_content=False,
            )  # fmt: skip
        with response:
            body = response.read(2**16, decode_content=False)
    except (HTTPError, OSError) as error:
        raise failure(error, urlsplit(url).netloc, urlsplit(proxy).netloc) from error
    if response.status != 200:
        raise error_of("GET /v1/ca", response.status, body)
    return _matching(url, body, ca_fingerprint)


def _matching(url: str, body: bytes, ca_fingerprint: str) -> str:
    """Return the PEM in ``body``, in one form, if it is the authority that was named."""
    try:
        der = ssl.PEM_cert_to_DER_cert(body.decode("ascii").strip())
    except ValueError:
        der = b""
    if not hmac.compare_digest(hashlib.sha256(der).hexdigest(), ca_fingerprint):
        raise NotTrusted(
            f"{url} is not the coordinator that the invitation names: its authority differs",
            hint="compare the address with the one you were told; go no further if it is right, "
            "and ask the coordinator's operator over the phone",
        )
    return ssl.DER_cert_to_PEM_cert(der)


def _credulous() -> ssl.SSLContext:
    """Return TLS 1.3 that believes any certificate: nothing but /v1/ca is asked with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _checked(url: str) -> str:
    """Return ``url`` without a slash at its end; ConfigError unless it is https://host:port."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "https" and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits, parts = False, urlsplit("")
    if not fits or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(
            f"{url} is no address of a coordinator",
            hint="write it as https://host:8443; there is no plain http",
        )
    return f"https://{parts.netloc}"


def _proxy_of(url: str) -> str:
    """Return the proxy that the environment names for ``url``, or the empty text."""
    proxy = getproxies_environment().get("https", "")
    return "" if proxy and proxy_bypass(urlsplit(url).netloc) else proxy


def _pool(url: str, context: ssl.SSLContext, proxy: str) -> HTTPConnectionPool:
    """Return the connections to ``url``; ConfigError for a proxy that cannot be one."""
    if not proxy:
        return PoolManager(ssl_context=context, maxsize=POOLED).connection_from_url(url)
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    parts = urlsplit(proxy)
    account, _, _ = parts.netloc.rpartition("@")
    headers = make_headers(proxy_basic_auth=unquote(account)) if account else None
    try:
        return ProxyManager(
            parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
            proxy_headers=headers,
            ssl_context=context,
            maxsize=POOLED,
        ).connection_from_url(url)
    except (HTTPError, ValueError, LocationParseError) as error:
        raise ConfigError(
            f"the proxy {parts.hostname} is no proxy's address",
            hint="write https_proxy as http://host:port",
        ) from error
