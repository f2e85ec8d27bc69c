"""An app that works where it was written, and at no site: it reads a file that is not its own."""

from pathlib import Path

from plain import data, task  # noqa: F401 -- what the run file names

WORDS = Path(__file__).with_name("words.txt").read_text()
