"""Identity keys against RFC 8032, what must not verify, and the files they are kept in."""

import base64
import json
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.net.keys import (
    IdentityKey,
    is_public,
    private_pem,
    read_private,
    verify,
    write_private,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signatures.json").read_text())
KEY = IdentityKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.mark.parametrize("row", VECTORS["rfc8032"], ids=lambda row: row["public"][:8])
def test_signatures_are_those_of_rfc_8032(row):
    key = IdentityKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(row["secret"])))
    message, signature = bytes.fromhex(row["message"]), bytes.fromhex(row["signature"])
    assert key.public == row["public"]
    assert key.sign(message) == base64.b64encode(signature).decode()
    assert verify(row["public"], message, key.sign(message))


@pytest.mark.parametrize("row", VECTORS["requests"] + VECTORS["responses"])
def test_signatures_of_the_wire_are_those_of_the_vectors(row):
    key = IdentityKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(row["secret"])))
    assert key.public == row["public"]
    assert key.sign(bytes.fromhex(row["text"])) == row["signature"]


@pytest.mark.parametrize("row", VECTORS["refused"], ids=lambda row: row["case"])
def test_a_forged_or_malformed_signature_does_not_verify(row):
    assert not verify(row["public"], bytes.fromhex(row["text"]), row["signature"])


@given(st.text(max_size=70), st.binary(max_size=8), st.text(max_size=90))
def test_verify_never_raises(public, text, signature):
    assert not verify(public, text, signature)
    assert not verify(KEY.public, text, signature)
    assert not verify(public, text, KEY.sign(text))


@given(st.binary(max_size=100))
def test_what_a_key_signs_it_verifies_and_another_does_not(text):
    other = IdentityKey(Ed25519PrivateKey.generate())
    assert is_public(other.public)
    assert verify(KEY.public, text, KEY.sign(text))
    assert not verify(other.public, text, KEY.sign(text))
    assert not verify(KEY.public, text + b"\0", KEY.sign(text))


def test_a_key_shows_its_public_part_only():
    private = KEY.private.private_bytes_raw()
    assert repr(KEY) == f"IdentityKey(public='{KEY.public}')"
    assert private.hex() not in f"{KEY!r} {KEY}"


def test_a_created_key_is_loaded_again_and_is_its_owners_alone(tmp_path):
    path = tmp_path / "identity.pem"
    before = os.umask(0)
    try:
        created = IdentityKey.create(path)
    finally:
        os.umask(before)
    assert IdentityKey.load(path).public == created.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("-----BEGIN PRIVATE KEY-----\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.pem"]


def test_openssl_reads_the_file_and_finds_the_same_public_key(tmp_path):
    key = IdentityKey.create(tmp_path / "identity.pem")
    command = ["openssl", "pkey", "-in", tmp_path / "identity.pem", "-pubout", "-outform", "DER"]
    assert subprocess.run(command, capture_output=True, check=True).stdout[-32:].hex() == key.public


def test_a_key_is_never_overwritten(tmp_path):
    path = tmp_path / "identity.pem"
    created = IdentityKey.create(path)
    with pytest.raises(ConfigError, match="is there already"):
        IdentityKey.create(path)
    assert IdentityKey.load(path).public == created.public
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_that_create_a_key_at_once_one_wins(tmp_path):
    def create(_: int) -> str | None:
        try:
            return IdentityKey.create(tmp_path / "identity.pem").public
        except ConfigError:
            return None

    with ThreadPoolExecutor(8) as pool:
        created = [public for public in pool.map(create, range(16)) if public]
    assert created == [IdentityKey.load(tmp_path / "identity.pem").public]


def test_a_dangling_link_in_a_keys_place_is_not_followed(tmp_path):
    (tmp_path / "identity.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is there already"):
        IdentityKey.create(tmp_path / "identity.pem")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o601, 0o777])
def test_a_key_that_others_may_touch_is_refused_whatever_they_may_do(tmp_path, mode):
    path = tmp_path / "identity.pem"
    IdentityKey.create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"open to others .mode {mode:04o}.") as refusal:
        IdentityKey.load(path)
    assert "chmod 600" in refusal.value.hint


def test_a_missing_key_or_folder_is_a_config_error_with_a_hint(tmp_path):
    for act in (IdentityKey.load, IdentityKey.create):
        with pytest.raises(ConfigError, match="No such file") as refusal:
            act(tmp_path / "missing" / "identity.pem")
        assert refusal.value.hint


LOCKED = Ed25519PrivateKey.generate().private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
)
NOT_KEYS = {
    "nothing": b"",
    "noise": bytes(range(256)),
    "another kind": private_pem(ec.generate_private_key(ec.SECP256R1())).encode(),
    "a password": LOCKED,
    "cut short": private_pem(KEY.private).encode()[:80],
    "DER": KEY.private.private_bytes_raw(),
    "a public key": KEY.public.encode(),
}


@pytest.mark.parametrize("content", NOT_KEYS.values(), ids=NOT_KEYS.keys())
def test_a_file_that_holds_no_identity_key_is_refused(tmp_path, content):
    write_private(tmp_path / "identity.pem", content)
    with pytest.raises(ConfigError, match="holds no Ed25519 private key") as refusal:
        IdentityKey.load(tmp_path / "identity.pem")
    assert refusal.value.hint


def test_a_private_file_is_replaced_only_if_asked_and_stays_private(tmp_path):
    path = tmp_path / "tls.pem"
    write_private(path, b"one")
    with pytest.raises(ConfigError, match="is there already"):
        write_private(path, b"two")
    assert read_private(path) == b"one"
    write_private(path, b"two", replace=True)
    assert read_private(path) == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_too_large_to_be_a_key_is_not_read_whole(tmp_path):
    write_private(tmp_path / "identity.pem", bytes(2**16 + 1))
    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        IdentityKey.load(tmp_path / "identity.pem")
