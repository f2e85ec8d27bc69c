"""What a failed connection means, in words for who runs a site's machine and its firewall."""

import ssl
from collections.abc import Iterator

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
)

from hanse.errors import TransportError

Said = tuple[str, str]
"""A text, of which the address is the subject, and a hint."""

CLOSED: Said = (
    "closed the connection without an answer",
    "try again; if it stays so right after connecting, the certificate shown here is not accepted: "
    "expired, revoked, or of another coordinator",
)
REJECTED: Said = (
    "does not accept the certificate shown here",
    "it is expired, revoked, or of another coordinator: check the clock, then join again",
)
# X509_V_ERR_* of OpenSSL's x509_vfy.h
EXPIRED, NOT_YET, HOST, ADDRESS = (10,), (9,), (62,), (64,)
VERIFICATION: dict[tuple[int, ...], Said] = {
    EXPIRED: (
        "shows a certificate that has expired",
        "check the clock of this machine; else its operator has to renew the certificate",
    ),
    NOT_YET: (
        "shows a certificate that is not valid yet",
        "check the clocks of this machine and of the coordinator",
    ),
    HOST + ADDRESS: (
        "shows a certificate for another host name",
        "use a name or address that the coordinator was set up with; its operator adds others to "
        "hosts in coordinator.json, and starts it again",
    ),
}
UNKNOWN: Said = (
    "shows a certificate of an authority that is not the coordinator's",
    "something on the way opens TLS, or the coordinator was set up anew: ask its operator, "
    "and have this address exempted from inspection",
)
OLD_TLS: Said = ("does not speak TLS 1.3", "check that the address is the coordinator's")
NO_TLS: Said = (
    "does not speak TLS",
    "check address and port; a proxy or a captive portal may have answered",
)
REASONS: dict[str, Said] = {
    "CERTIFICATE_REQUIRED": (
        "asks for a certificate, and none is shown here",
        "join first; a started site shows its certificate by itself",
    ),
    "CERTIFICATE_EXPIRED": REJECTED,
    "CERTIFICATE_REVOKED": REJECTED,
    "CERTIFICATE_UNKNOWN": REJECTED,
    "BAD_CERTIFICATE": REJECTED,
    "UNKNOWN_CA": REJECTED,
    "PROTOCOL_VERSION": OLD_TLS,
    "UNSUPPORTED_PROTOCOL": OLD_TLS,
    "WRONG_VERSION_NUMBER": NO_TLS,
    "HTTP_REQUEST": NO_TLS,
    "UNEXPECTED_EOF": CLOSED,
}


def failure(error: Exception, address: str, proxy: str = "") -> TransportError:
    """Return what ``error`` of the HTTP library means; ``address`` is host:port.

    ``proxy`` is host:port of the proxy, if there is one.
    """
    text, hint = _meaning(error)
    if isinstance(error, ProxyError):
        return TransportError(
            f"the proxy {proxy} gives no way to {address}: {_innermost(error)}",
            hint="check https_proxy and no_proxy; the proxy has to permit CONNECT to this address",
        )
    return TransportError(f"{address} {text}", hint=hint)


def _meaning(error: Exception) -> Said:
    match error:
        case NameResolutionError():
            return "is not known by this name", "check the address, and this machine's DNS"
        case NewConnectionError():
            return (
                f"cannot be reached: {_innermost(error)}",
                "check that the coordinator runs there, and that address and port are right",
            )
        case ConnectTimeoutError():
            return (
                "did not answer in time",
                "a firewall may drop the packets: this machine has to reach it by outgoing TCP",
            )
        case ReadTimeoutError():
            return "stopped answering", "try again; the network or the coordinator is stuck"
        case _:
            return _tls(error)


def _tls(error: Exception) -> Said:
    """Return what a TLS error means, wherever in the chain it is; else the connection was cut."""
    for cause in _chain(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            code = cause.verify_code
            return next((said for codes, said in VERIFICATION.items() if code in codes), UNKNOWN)
        if isinstance(cause, ssl.SSLError):
            reason = cause.reason or ""
            known = (said for part, said in REASONS.items() if part in reason)
            return next(known, (f"broke off TLS ({reason})", CLOSED[1]) if reason else CLOSED)
    return CLOSED


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and what it was raised from or with, outermost first."""
    seen, todo = set[int](), [error]
    while todo:
        current = todo.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        causes = (*current.args, current.__cause__, current.__context__)
        todo += [cause for cause in causes if isinstance(cause, BaseException)]


def _innermost(error: Exception) -> str:
    """Return what the operating system or the proxy said."""
    said = [cause for cause in _chain(error) if not isinstance(cause, HTTPError)]
    last = said[-1] if said else error
    return (last.strerror if isinstance(last, OSError) else None) or str(last)
