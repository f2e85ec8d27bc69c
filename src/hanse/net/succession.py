"""The coordinator's identity key and those after it: each is named by the one before it.

A site knows the key that it joined with. A statement ``{"key", "signature"}`` has the next key in
hex, and over ``hanse/1 successor``, a line feed and that key the signature of the key before. Who
has stolen a key can name a successor too: a rotation helps before a key leaks, not after.
"""

import json
from pathlib import Path
from typing import Any

from hanse.errors import ConfigError, ProtocolError
from hanse.net.keys import IdentityKey, is_public, verify, write_private

FILE = "succession.json"
PREFIX = b"hanse/1 successor\n"
MOST = 64
Statement = dict[str, str]


def read(folder: Path) -> list[Statement]:
    """Return the statements in a coordinator's folder; ConfigError if they cannot be read."""
    path = folder / FILE
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", hint="restore it from a backup"
        ) from error


def rotate(folder: Path, identity: Path) -> str:
    """Draw another identity key in the place of ``identity``, named by that one; return it.

    ConfigError if there were too many. A stop in the middle leaves the old key, or the new one.
    """
    told, old = read(folder), IdentityKey.load(identity)
    if len(told) >= MOST:
        raise ConfigError(f"{MOST} keys have followed each other", hint="let sites join anew")
    fresh = identity.with_name(f".{identity.name}.next")
    fresh.unlink(missing_ok=True)
    new = IdentityKey.create(fresh)
    keys = [one["key"] for one in told]  # what stands behind this key is of a stopped rotation
    told = told[: keys.index(old.public) + 1] if old.public in keys else []
    told.append({"key": new.public, "signature": old.sign(PREFIX + new.public.encode())})
    write_private(folder / FILE, json.dumps(told).encode(), replace=True)
    fresh.replace(identity)
    return new.public


def follow(known: str, told: Any, claimed: str) -> list[str]:
    """Return the keys that came after ``known``, the last of which is ``claimed``.

    Empty if that is ``known`` itself. ProtocolError unless each was named by the one before it.
    """
    found, current = list[str](), known
    for statement in _statements(told):
        key, signature = statement["key"], statement["signature"]
        if current != claimed and verify(current, PREFIX + key.encode(), signature):
            found.append(key)
            current = key
    if current != claimed or not is_public(claimed):
        raise ProtocolError(
            f"the coordinator's identity key is {claimed[:16]}…, which {known[:16]}… has not named",
            hint="ask its operator by phone: if it is another coordinator now, join again",
        )
    return found


def _statements(told: Any) -> list[Statement]:
    found = list[Statement]()
    try:
        for one in list(told)[:MOST]:
            key, signature = one["key"], one["signature"]
            found.append({"key": str(key), "signature": str(signature)})
    except (TypeError, KeyError) as error:
        raise ProtocolError("a succession of identity keys that is none") from error
    return found
