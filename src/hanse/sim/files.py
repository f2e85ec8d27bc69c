"""Files that are whole at every moment: tensors by owner and name, with JSON beside them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hanse.errors import ConfigError

Tensors = dict[str, NDArray[Any]]
Nested = Mapping[str, Mapping[str, NDArray[Any]]]
SEPARATOR = "|"


def write_whole(path: Path, *content: "bytes | memoryview", durable: bool = True) -> None:
    """Write ``path`` so that it is either as it was or whole, even if the machine stops.

    ``content``: what is in it, one after the other. Without ``durable`` that holds for a process
    that is killed, not for the machine: whoever reads the file after a start has to verify it.
    """
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.writelines(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(new, path)
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_tensors(path: Path, tensors: Tensors, told: Mapping[str, Any]) -> None:
    """Write ``tensors`` in the safetensors format, with ``told`` as JSON in its metadata."""
    copies = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_whole(path, save(copies, metadata={"hanse": json.dumps(told)}))


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Return tensors and JSON of :func:`write_tensors`; ConfigError if the file is not whole."""
    try:
        opened: Any = safe_open(path, "np")  # pyright: ignore -- the package has no stubs
        with opened as file:
            told: dict[str, Any] = json.loads(file.metadata()["hanse"])
            tensors: Tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a whole file of Hanse's: {error}",
            hint="remove it to start again from round 1",
        ) from error
    return tensors, told


def flat(prefix: str, nested: Nested) -> Tensors:
    """Return ``nested`` (owner → name → array) under names that :func:`nested_of` takes apart."""
    return {
        SEPARATOR.join((prefix, owner, name)): array
        for owner, named in nested.items()
        for name, array in named.items()
    }


def nested_of(prefix: str, tensors: Tensors) -> dict[str, dict[str, NDArray[Any]]]:
    """Return owner → name → array of all that :func:`flat` named with ``prefix``."""
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for key, array in tensors.items():
        owner_and_name = key.removeprefix(prefix + SEPARATOR)
        if owner_and_name != key:
            owner, name = owner_and_name.split(SEPARATOR, 1)
            found.setdefault(owner, {})[name] = array
    return found
