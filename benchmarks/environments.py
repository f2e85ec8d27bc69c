"""Environments of the systems that Hanse is measured beside, each made on first use."""

import json
import subprocess
import sys
from pathlib import Path


def made(folder: Path, peer: str) -> Path:
    """Return the python of the environment that ``peer.txt`` describes; make it, if need be."""
    home, wanted = folder / f".venv-{peer}", folder / f"{peer}.txt"
    python, stamp = home / "bin" / "python", home / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return python
    print(f"Installing {peer} into {home}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", "-r", str(wanted)], check=True)
    stamp.write_text(wanted.read_text())
    return python


def versions(python: Path) -> dict[str, str]:
    """Return the version of each package that is installed there."""
    words = [str(python), "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"]
    told = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return {one["name"]: one["version"] for one in told}
