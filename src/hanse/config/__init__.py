"""A run file: TOML in, checked objects out, one clear line for what cannot be meant."""

from hanse.config.parse import load, parse
from hanse.config.runfile import RunFile, Split

__all__ = ["RunFile", "Split", "load", "parse"]
