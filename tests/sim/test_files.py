"""A file is as it was, or whole; a checkpoint is never ahead of the history on disk."""

import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from hanse.sim.files import write_whole

ROOT = Path(__file__).parents[2]
WRITE = "from pathlib import Path; from hanse.sim.files import write_whole; "


def traced(code: str, folder: Path) -> list[tuple[str, str]]:
    """Run Python ``code`` in ``folder``; return (call, name) of what it syncs and renames there."""
    assert shutil.which("strace"), "apt-get install strace"
    log, calls = folder.parent / "calls", "fsync,fdatasync,rename,renameat,renameat2"
    strace = ["strace", "-f", "-y", "-o", str(log), "-e", f"trace={calls}"]
    ran = subprocess.run(
        [*strace, sys.executable, "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    named = re.findall(r'(fsync|rename)\w*\(.*["/]([^"/]+)[">]\)', log.read_text())
    ours = {folder.name, "checkpoint.safetensors", *(path.name for path in folder.iterdir())}
    return [(call, name) for call, name in named if name.removesuffix(".new") in ours]


def test_a_file_is_durable_before_it_has_its_name_and_the_name_before_anyone_is_told(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert traced(f"{WRITE}write_whole(Path('result.json').absolute(), b'1')", folder) == [
        ("fsync", "result.json.new"),
        ("rename", "result.json"),
        ("fsync", "run"),
    ]


def test_a_file_that_is_verified_after_a_start_is_only_renamed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = f"{WRITE}write_whole(Path('frame').absolute(), b'1', durable=False)"
    assert traced(code, folder) == [("rename", "frame")]


def test_rows_are_durable_before_the_checkpoint_that_counts_them(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); import hanse;"
        "from tests.train.models import binary, federation;"
        "hanse.simulate(binary(), federation(clients=2), rounds=2, out='.', checkpoint_s=0.0)"
    )
    calls = traced(code, folder)
    saved = [at for at, call in enumerate(calls) if call == ("fsync", "checkpoint.safetensors.new")]
    assert len(saved) == 2
    assert all(calls[at - 1] == ("fsync", "history.jsonl") for at in saved)
    told = calls.index(("fsync", "result.json.new"))
    assert ("fsync", "history.jsonl") in calls[saved[-1] : told]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    """The disk's limit is a limit on the size of files of a process of its own."""
    path = tmp_path / "model"
    write_whole(path, b"old" * 100)
    code = f"{WRITE}write_whole(Path({str(path)!r}), b'new' * 100_000)"

    def little() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    ran = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=little, capture_output=True, text=True
    )
    assert "File too large" in ran.stderr
    assert path.read_bytes() == b"old" * 100
