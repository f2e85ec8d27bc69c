"""The wire's vectors are what their generator writes; frames and blobs agree with them.

Signatures, tokens and words are held against theirs in tests/net.
"""

import ast
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from hanse.core.frames import Frame
from hanse.core.listing import Listing
from hanse.errors import ProtocolError

HERE = Path(__file__).parent
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_wire_vectors.py"
MADE = runpy.run_path(str(SCRIPT))["vectors"]()
FRAMES = json.loads((HERE / "frames.json").read_text())
LISTINGS = json.loads((HERE / "listings.json").read_text())


def frame_of(tensors: list[dict]) -> Frame:
    return Frame(tuple((t["name"], t["dtype"], t["length"]) for t in tensors))


def blob(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@pytest.mark.parametrize("name", MADE)
def test_a_vector_file_is_what_its_generator_writes(name):
    assert (HERE / name).read_text() == MADE[name], f"run {SCRIPT.name}, and say why it changed"


def test_the_generator_imports_the_standard_library_only():
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize("row", FRAMES["frames"], ids=lambda row: row["case"])
def test_a_frame_has_one_form(row):
    frame = frame_of(row["tensors"])
    arrays = {
        t["name"]: np.frombuffer(bytes.fromhex(t["data"]), t["dtype"]) for t in row["tensors"]
    }
    assert frame.header.hex() == row["header"]
    assert frame.pack(arrays).hex() == row["frame"]
    unpacked = frame.unpack(bytes.fromhex(row["frame"]))
    assert {name: array.tobytes().hex() for name, array in unpacked.items()} == {
        t["name"]: t["data"] for t in row["tensors"]
    }


@pytest.mark.parametrize("row", FRAMES["refused"]["contents"], ids=lambda row: row["case"])
def test_what_is_not_exactly_the_frame_is_refused(row):
    with pytest.raises(ProtocolError, match="a frame"):
        frame_of(FRAMES["refused"]["tensors"]).unpack(bytes.fromhex(row["content"]))


@pytest.mark.parametrize("row", LISTINGS["blobs"], ids=lambda row: str(row["size"]))
def test_a_blob_has_one_listing_and_one_id(row):
    listing = Listing.of(blob(row["size"]))
    assert [chunk.hex() for chunk in listing.chunks] == row["chunks"]
    assert (listing.packed.hex(), listing.id) == (row["listing"], row["id"])
    assert Listing.unpack(bytes.fromhex(row["listing"])) == listing


@pytest.mark.parametrize("row", LISTINGS["refused"], ids=lambda row: row["case"])
def test_a_listing_that_contradicts_itself_is_refused(row):
    with pytest.raises(ProtocolError, match=r"a listing of|a blob of"):
        Listing.unpack(bytes.fromhex(row["listing"]))
