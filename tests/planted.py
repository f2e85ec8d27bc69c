"""Bugs that were planted, one at a time, to see whether the suite catches them.

    python -m tests.planted            # all; about ten minutes
    python -m tests.planted hash       # those with this in their name

Each is a change of one place in a copy of the source; the tests that are named must fail on it, and
pass without it. ``docs/how-to/test-the-tests.md`` lists them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAULTS = "tests/faults/test_faults.py"


@dataclass(frozen=True)
class Planted:
    """``old`` stands in ``file`` once, and becomes ``new``; ``tests`` are what must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


PLANTED = (
    Planted(
        "an append is told to be durable before it is committed",
        "coordinator/journal.py",
        "        if rows:\n            reach(Point.JOURNAL_WRITING)",
        "        for append, entries in zip(self._taken, made, strict=True):\n"
        "            append.done.set_result(entries)\n"
        "        self._taken = []\n"
        "        if rows:\n            reach(Point.JOURNAL_WRITING)",
        ("tests/coordinator/test_journal.py",),
    ),
    Planted(
        "a receipt is given before its event is durable",
        "coordinator/live.py",
        "        entry = queued.future.result()[0]\n",
        '        entry = Entry(0, self.stream, "", None, "", "", 0)\n',
        (FAULTS,),
    ),
    Planted(
        "an answer that is sent again gets no receipt",
        "coordinator/live.py",
        "        return self.receipts.get(key) or self.queued.get(key)\n",
        "        return None\n",
        ("tests/coordinator/test_replay.py",),
    ),
    Planted(
        "another answer under the same name gets the receipt of the first",
        "coordinator/live.py",
        '        if receipt["digest"] != mark:\n',
        '        if receipt["digest"] != mark and not mark:\n',
        ("tests/coordinator/test_replay.py", "tests/coordinator/test_shares.py"),
    ),
    Planted(
        "a share is added twice when the round is summed",
        "coordinator/driver.py",
        "                self.folded.add(site)\n",
        "                self.folded.add(self.run.id)\n",
        (FAULTS,),
    ),
    Planted(
        "uploads are destroyed before the round's total is durable",
        "coordinator/driver.py",
        "        row = row_of(state, total, spec)\n",
        "        row = row_of(state, total, spec)\n"
        "        self.run.spool.destroy(self.run.id, 2 * action.round)\n",
        (FAULTS,),
    ),
    Planted(
        "a damaged update is summed as nothing",
        "coordinator/total.py",
        "    if not upload.is_complete:\n",
        "    if False:\n",
        ("tests/coordinator/test_total.py",),
    ),
    Planted(
        "an upload is receipted though it could not be synced",
        "coordinator/uploads.py",
        "            os.fsync(file)\n        reach(Point.UPLOAD_SYNCED)\n",
        "            pass\n        reach(Point.UPLOAD_SYNCED)\n",
        ("tests/coordinator/test_spool.py",),
    ),
    Planted(
        "after a sync that failed a second one is believed",
        "coordinator/uploads.py",
        "self.next, self._is_there, self._writer, self._chunk = 0, False, None, None\n",
        "self._writer, self._chunk = None, None\n",
        ("tests/coordinator/test_spool.py",),
    ),
    Planted(
        "every chunk in the spool has the same nonce",
        "coordinator/uploads.py",
        "        self._nonce = secrets.token_bytes(NONCE)\n",
        "        self._nonce = bytes(NONCE)\n",
        ("tests/coordinator/test_spool.py",),
    ),
    Planted(
        "the key of a destroyed room is only unlinked",
        "coordinator/spool.py",
        "        file.write(secrets.token_bytes(path.stat().st_size))\n",
        "        pass\n",
        ("tests/coordinator/test_spool.py",),
    ),
    Planted(
        "the chain's links are not compared",
        "coordinator/schema.py",
        "    if row.prev != prev:\n",
        "    if False:\n",
        ("tests/coordinator/test_journal.py",),
    ),
    Planted(
        "a blob is read without its hash",
        "coordinator/blobs.py",
        "                if hashlib.sha256(chunk).digest() != listing.chunks[number]:\n",
        "                if False:\n",
        ("tests/coordinator/test_blobs.py",),
    ),
    Planted(
        "a late answer is taken for the round that is open",
        "core/course.py",
        "        return round <= course.round or closed\n",
        "        return closed\n",
        ("tests/core/test_course.py",),
    ),
    Planted(
        "the deadline is by the wall clock",
        "coordinator/live.py",
        "        return self.base + (time.monotonic() - self.began)\n",
        "        return self.base + (time.time() - self.began)\n",
        ("tests/coordinator/test_live.py",),
    ),
    Planted(
        "nobody is woken by an event",
        "coordinator/live.py",
        '        return None if _key_of(event) is None else ""\n',
        '        return ""\n',
        (FAULTS,),
    ),
    Planted(
        "a round that begins again keeps its old receipts",
        "coordinator/live.py",
        "        self.reopened += 1\n",
        "        return\n",
        (FAULTS,),
    ),
    Planted(
        "a site keeps its memory though it was not counted",
        "site/kept.py",
        "        if counted == self.pending and counted > self.kept_round:\n",
        "        if self.pending > self.kept_round:\n",
        (FAULTS,),
    ),
    Planted(
        "a site forgets at a restart what is not settled yet",
        "site/kept.py",
        "        if (provisional := shelf.read(PROVISIONAL)) is not None:\n",
        "        if (provisional := None) is not None:\n",
        (FAULTS,),
    ),
    Planted(
        "other bytes may leave under the same name",
        "site/releases.py",
        '        if known not in ("", digest):\n',
        '        if known not in ("", digest) and not digest:\n',
        ("tests/site/test_gate.py",),
    ),
    Planted(
        "a hash is compared by its prefix",
        "site/verdict.py",
        "    if policy.apps is not None and request.app not in policy.apps:\n",
        "    known = [app[:16] for app in policy.apps or ()]\n"
        "    if policy.apps is not None and request.app[:16] not in known:\n",
        ("tests/site/test_policy.py",),
    ),
    Planted(
        "a share that is not a number is summed",
        "core/intake.py",
        "        if not (view.max() <= limit and view.min() >= -limit):",
        "        if view.max() > limit or view.min() < -limit:",
        ("tests/core/test_intake.py",),
    ),
    Planted(
        "a run that goes on draws its noise anew",
        "sim/rounds.py",
        "            summed, lambda purpose: seeds.stream(spec.seed, ask.round, purpose), states\n",
        "            summed, lambda purpose: np.random.default_rng(), states\n",
        ("tests/laws/test_runs.py",),
    ),
    Planted(
        "a site sees the runs of others",
        "coordinator/routes.py",
        "    if row.owner == SITE_RUN and who.name not in record.live.course.members:\n",
        "    if False:\n",
        ("tests/coordinator/test_access_matrix.py",),
    ),
    Planted(
        "a backup that was changed is restored",
        "coordinator/backup.py",
        "        if name not in found or _digest(found[name]) != digest:\n",
        "        if name not in found:\n",
        ("tests/coordinator/test_backup.py",),
    ),
    Planted(
        "half of the noise",
        "privacy/gaussian.py",
        "        drawn *= factor\n",
        "        drawn *= factor / 2\n",
        ("tests/privacy/test_two_worlds.py",),
    ),
    Planted(
        "noise that hides a client counts in full for a person in it",
        "core/ledger.py",
        "(of_a_part(by_unit[one]) for one in coarser if",
        "(by_unit[one] for one in coarser if",
        ("tests/core/test_ledger.py",),
    ),
    Planted(
        "each row of a person is clipped to what all of them may be",
        "train/torch_private.py",
        "return numbers, private.clip / of.to(",
        "return numbers, private.clip * (of > 0).to(",
        ("tests/train/test_persons.py",),
    ),
    Planted(
        "the noise of a real run comes from its seed",
        "site/job.py",
        "        draw = secret.fresh if is_secret else seeds.stream\n",
        "        draw = seeds.stream if is_secret else seeds.stream\n",
        ("tests/e2e/test_ledger.py",),
    ),
    Planted(
        "noise in training is drawn from the seed where it is real",
        "site/job.py",
        "        is_secret = spec.bound.facts.keeps_counts and",
        "        is_secret = spec.bound.facts.is_private and",
        ("tests/e2e/test_ledger.py",),
    ),
    Planted(
        "a run releases once more than it reserved",
        "core/ledger.py",
        "len(account.debits) >= account.reserved.releases:",
        "len(account.debits) > account.reserved.releases:",
        ("tests/core/test_ledger.py",),
    ),
    Planted(
        "an older copy of a privacy ledger is taken for the newest",
        "site/ledger.py",
        '        self.rolled_back = "" if self.holds(head) else (\n',
        '        self.rolled_back = "" if self.holds(head) or head else (\n',
        ("tests/e2e/test_ledger.py",),
    ),
    Planted(
        "a line of which a sync failed counts as on disk",
        "sim/lines.py",
        "            found = self._read(self._synced)\n",
        "            found = self._read()\n",
        ("tests/sim/test_ledger_file.py",),
    ),
    Planted(
        "noised bytes are debited before they are on disk",
        "site/gate.py",
        "        if bound.facts.keeps_counts and isinstance(content, Path):\n",
        "        if False and isinstance(content, Path):\n",
        ("tests/site/test_gate.py",),
    ),
)


def planted_in(folder: Path, bug: Planted | None) -> dict[str, str]:
    """Copy source and tests to ``folder``, with the bug; return the environment to run them in."""
    for name in ("src", "tests", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "mkdocs.yml", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    if bug is not None:
        path = folder / "src" / "hanse" / bug.file
        text = path.read_text()
        assert text.count(bug.old) == 1, f"{bug.name}: {text.count(bug.old)} places in {bug.file}"
        path.write_text(text.replace(bug.old, bug.new))
    return {**os.environ, "PYTHONPATH": str(folder / "src")}


def fails(bug: Planted | None, tests: tuple[str, ...]) -> str:
    """Return the name of the first test that fails with the bug, or nothing."""
    with tempfile.TemporaryDirectory(prefix="hanse-planted-") as name:
        folder = Path(name)
        environment = planted_in(folder, bug)
        words = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *tests]
        ran = subprocess.run(
            [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        lines = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return lines[0] if lines else ("" if ran.returncode == 0 else ran.stdout[-300:])


def main(given: list[str]) -> int:
    """Plant each bug in turn; 1 if one was not caught."""
    wanted = [bug for bug in PLANTED if not given or any(word in bug.name for word in given)]
    tests = tuple(dict.fromkeys(test for bug in wanted for test in bug.tests))
    said = fails(None, tests)
    assert not said, f"the tests fail without a bug: {said}"
    caught = 0
    for bug in wanted:
        began = time.monotonic()
        said = fails(bug, bug.tests)
        caught += bool(said)
        took = time.monotonic() - began
        print(
            f"{'caught' if said else 'MISSED'} in {took:3.0f} s: {bug.name}: {said[:110]}",
            flush=True,
        )
    print(f"{caught} of {len(wanted)} caught")
    return int(caught < len(wanted))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
