"""A coordinator that is copied while it works, and made again from the copy (P24); and its fsck."""

import json
import random
import shutil
import threading
import time

import pytest
from tests.coordinator.service import play_all, serving, spec_of, submit

from hanse.coordinator.backup import MANIFEST, backup, check, restore
from hanse.coordinator.doctor import doctor
from hanse.coordinator.fsck import fsck, runs_of
from hanse.coordinator.history import History
from hanse.coordinator.home import Home
from hanse.errors import ConfigError

ROUNDS = 12


def failing(rows):
    return [row.name for row in rows if not row.ok]


def said(rows, name):
    return next(row.said for row in rows if row.name == name)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A coordinator of which backups were made while a run went on, and the run."""
    folder = tmp_path_factory.mktemp("coordinator")
    home, backups, heads = Home(folder / "coordinator"), folder / "backups", []
    backups.mkdir()
    with serving(folder) as coordinator:
        sites, draw = [coordinator.enrol(name) for name in ("ada", "bob")], random.Random(3)
        spec = spec_of("ada", "bob", rounds=ROUNDS)
        run = submit(coordinator.person("anna", "researcher"), spec)
        playing = threading.Thread(target=play_all, args=(sites, run, spec))
        playing.start()
        while playing.is_alive():
            heads.append(backup(home, backups / str(len(heads))))
            time.sleep(draw.uniform(0, 0.05))
        playing.join()
        assert coordinator.state(run)["outcome"] == "done"
        heads.append(backup(home, backups / str(len(heads))))
    return folder, run, heads


@pytest.fixture
def whole(copied, tmp_path):
    """A copy of the coordinator that was stopped, to do harm to."""
    shutil.copytree(copied[0] / "coordinator", tmp_path / "home")
    return Home(tmp_path / "home")


def test_copies_of_a_coordinator_that_works_are_whole(copied, tmp_path):
    folder, run, heads = copied
    assert len({head.seq for head in heads}) > 3
    with History.of(folder / "coordinator" / "journal.db") as history:
        for number, head in enumerate(heads):
            assert check(folder / "backups" / str(number))["seq"] == head.seq
            assert history.hash_of(head.seq) == head.hash
            home = Home(tmp_path / str(number))
            assert restore(folder / "backups" / str(number), home) == head
            rows = fsck(home)
            assert failing(rows) == []
            assert run in [row.name for row in rows]
            assert not (home.folder / "spool").exists()


def test_a_run_goes_on_from_a_copy_and_people_see_that_it_was_restored(copied, tmp_path):
    folder, run, heads = copied
    half = next(n for n, head in enumerate(heads) if head.seq > heads[-1].seq / 2)
    for kept in ("sites",):
        shutil.copytree(folder / kept, tmp_path / kept)
    restore(folder / "backups" / str(half), Home(tmp_path / "coordinator"))
    with serving(tmp_path) as coordinator:
        listed = coordinator.operator.request("GET", "/v1/runs").json()
        assert listed["restored"]["seq"] == heads[half].seq
        assert coordinator.state(run)["round"] <= ROUNDS
        assert coordinator.office.registry.sites.keys() == {"ada", "bob"}
    assert failing(fsck(Home(tmp_path / "coordinator"))) == []


def test_a_backup_has_no_update_of_a_site(copied):
    for path in (copied[0] / "backups").rglob("*"):
        assert "spool" not in path.parts
        assert not path.name.endswith(".upload")


def test_a_backup_is_its_owners_alone(copied):
    for path in (copied[0] / "backups" / "0").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_backup_goes_to_a_new_folder(copied):
    with pytest.raises(ConfigError, match="is there already"):
        backup(Home(copied[0] / "coordinator"), copied[0] / "backups" / "0")


def test_a_backup_that_was_stopped_is_none(copied, tmp_path):
    shutil.copytree(copied[0] / "backups" / "0", tmp_path / "cut")
    (tmp_path / "cut" / MANIFEST).unlink()
    with pytest.raises(ConfigError, match="is no backup, or one that was stopped"):
        restore(tmp_path / "cut", Home(tmp_path / "home"))
    assert not (tmp_path / "home").exists()


def test_every_byte_of_a_backup_counts(copied, tmp_path):
    draw = random.Random(1)
    shutil.copytree(copied[0] / "backups" / "0", tmp_path / "b")
    for path in [p for p in (tmp_path / "b").rglob("*") if p.is_file()]:
        before = path.read_bytes()
        content = bytearray(before)
        if not content:
            continue
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        try:
            told = json.loads(content) if path.name == MANIFEST else None
        except ValueError:
            told = None
        if told is None or told.get("files") != json.loads(before)["files"]:
            with pytest.raises(ConfigError):
                restore(tmp_path / "b", Home(tmp_path / "home"))
            assert not (tmp_path / "home").exists()
        path.write_bytes(before)
    check(tmp_path / "b")


def test_a_folder_with_something_in_it_is_not_restored_into(copied, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "precious").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        restore(copied[0] / "backups" / "0", Home(tmp_path / "home"))


def test_a_journal_in_postgresql_is_copied_to_a_file_and_back(postgres_url, tmp_path):
    with serving(tmp_path / "a", database=postgres_url) as coordinator:
        coordinator.enrol("ada")
        head = backup(Home(tmp_path / "a" / "coordinator"), tmp_path / "backup")
    other = Home(tmp_path / "b" / "coordinator")
    with pytest.raises(ConfigError, match="has events already"):
        restore(tmp_path / "backup", Home(tmp_path / "c"), postgres_url)
    assert restore(tmp_path / "backup", other) == head
    assert failing(fsck(other)) == []
    with serving(tmp_path / "b") as coordinator:
        assert [*coordinator.office.registry.sites] == ["ada"]


def test_a_journal_in_a_file_is_restored_into_postgresql(copied, postgres_url, tmp_path):
    home = Home(tmp_path / "coordinator")
    head = restore(copied[0] / "backups" / "0", home, postgres_url)
    assert failing(fsck(home)) == []
    with serving(tmp_path) as coordinator:
        assert coordinator.office.registry.restored.seq == head.seq


# fsck and doctor


def test_a_folder_that_is_whole_passes_and_is_left_as_it_is(whole):
    def seen():
        files = [p for p in whole.folder.rglob("*") if p.is_file()]
        return {p: p.read_bytes() for p in files if not p.name.startswith("journal.db-")}

    before = seen()
    assert failing(fsck(whole)) == []
    assert seen() == before | {whole.folder / "journal.db.lock": b""}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_model_is_named(copied, whole):
    with History.of(whole.folder / "journal.db") as history:
        needed = next(runs_of(history, whole.folder / "blobs"))[1].needed
    assert len(needed) >= 2
    for path in (whole.folder / "blobs" / copied[1] / "sha256").glob("??/*"):
        if (path.parent.name + path.name).removesuffix(".listing") not in needed:
            continue
        before = path.read_bytes()
        flip(path)
        rows = fsck(whole)
        assert failing(rows) == [copied[1]]
        assert "damaged" in said(rows, copied[1]) or "listing" in said(rows, copied[1])
        path.write_bytes(before)


def test_a_changed_event_is_named(whole):
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(whole.folder / "journal.db")) as database:
        database.execute("UPDATE event SET body = '{}' WHERE seq = 5")
        database.commit()
    rows = fsck(whole)
    assert failing(rows) == ["journal"]
    assert "event 5 of the journal" in said(rows, "journal")


def test_keys_that_others_can_read_are_named(whole):
    (whole.folder / "identity.pem").chmod(0o644)
    assert failing(fsck(whole)) == ["rights", "identity"]


def test_the_doctor_says_that_nothing_answers(whole):
    rows = doctor(whole)
    assert failing(rows) == ["answers"]
    assert said(rows, "database").startswith("SQLite 3.")


def test_the_doctor_sees_a_clock_that_went_back(whole, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert "clock" in failing(doctor(whole))
