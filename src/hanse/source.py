"""An app's modules are imported from their source, never from bytecode that was kept of it.

What runs is what was hashed: Python takes a kept ``.pyc`` for a file of the same size and second,
and a site's folder may hold one that somebody else put there.
"""

import sys
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from typing import NoReturn

_FOLDERS = set[Path]()


class _Source(SourceFileLoader):
    """Reads no bytecode and writes none: a loader without times of files can do neither."""

    def path_stats(self, path: object) -> NoReturn:
        raise OSError(f"no bytecode is kept of {path}")


def only_source(folder: Path) -> None:
    """Let what is imported from ``folder``, and from below it, come from its source."""
    if _hook not in sys.path_hooks:
        sys.path_hooks.insert(0, _hook)
    if folder not in _FOLDERS:
        _FOLDERS.add(folder)
        for path in [path for path in sys.path_importer_cache if _is_within(path)]:
            del sys.path_importer_cache[path]


def _is_within(path: str) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in _FOLDERS)


def _hook(path: str) -> FileFinder:
    if not _is_within(path):
        raise ImportError(f"{path} is no app's folder")
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Source, SOURCE_SUFFIXES))
