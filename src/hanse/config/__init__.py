"""A run file: TOML in, checked objects out, one clear line for what cannot be meant."""

from hanse.config.runfile import RunFile, Split, load, parse

__all__ = ["RunFile", "Split", "load", "parse"]
