"""The journal: one contract for SQLite and PostgreSQL, then what is particular to each."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager

import psycopg
import pytest
from sqlalchemy.exc import InternalError

from hanse.coordinator.journal import Journal, JournalBroken
from hanse.coordinator.schema import chain_hash
from hanse.errors import ConfigError


@contextmanager
def opened(where, **options):
    journal = Journal.open(where, **options)
    try:
        yield journal
    finally:
        journal.close()


def tamper(where, *statements):
    """Change the database behind the journal's back."""
    connection = psycopg.connect(where) if "://" in where else sqlite3.connect(where)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def told(entries):
    return [(entry.seq, entry.stream, entry.kind, entry.body) for entry in entries]


class TestAnyJournal:
    @pytest.fixture
    def journal(self, where):
        with opened(where) as journal:
            yield journal

    def test_what_was_appended_is_read_in_order_after_it_was_opened_again(self, where):
        with opened(where) as journal:
            made = journal.append_now("run/a", [("begun", {"x": 1.5, "é": None}), ("ended", [])])
            made += journal.append_now("registry", [("joined", "\x00")])
        with opened(where) as journal:
            assert journal.read("run/a") == made[:2]
            assert journal.read("registry") == made[2:]
            assert told(made) == [
                (1, "run/a", "begun", {"x": 1.5, "é": None}),
                (2, "run/a", "ended", []),
                (3, "registry", "joined", "\x00"),
            ]

    def test_reading_after_an_event_gives_what_came_later_in_that_stream(self, journal):
        journal.append_now("run/a", [("one", 1)])
        journal.append_now("run/b", [("two", 2)])
        journal.append_now("run/a", [("three", 3)])
        assert told(journal.read("run/a", after=1)) == [(3, "run/a", "three", 3)]
        assert journal.read("run/a", after=3) == []
        assert journal.read("run/c") == []

    def test_streams_are_found_by_the_letters_that_they_begin_with(self, journal):
        for stream in ("run/a", "Run/a", "run/B", "registry", "run%"):
            journal.append_now(stream, [("begun", None), ("ended", None)])
        assert journal.streams("run/") == ["run/B", "run/a"]
        assert journal.streams("run%") == ["run%"]
        assert journal.streams() == ["Run/a", "registry", "run%", "run/B", "run/a"]

    def test_the_hash_is_that_of_the_canonical_event(self, journal):
        first, second = journal.append_now("run/a", [("begun", {"b": 1.0, "a": "ü"}), ("k", None)])
        text = '{"body":{"a":"ü","b":1},"kind":"begun","prev":"%s","seq":1,"stream":"run/a"}'
        expected = hashlib.sha256(b"hanse/1 event\n" + (text % ("0" * 64)).encode()).hexdigest()
        assert (first.prev, first.hash) == ("0" * 64, expected)
        assert second.prev == first.hash

    def test_appends_from_many_threads_are_one_chain_and_each_thread_keeps_its_order(self, journal):
        def work(number):
            futures = [journal.append(f"run/{number}", [("step", n)]) for n in range(50)]
            assert [future.result()[0].body for future in futures] == list(range(50))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(6):
            assert [entry.body for entry in journal.read(f"run/{number}")] == list(range(50))
        journal.verify()

    def test_an_append_of_several_events_is_not_mixed_with_another(self, journal):
        futures = [journal.append("run/a", [("one", n), ("two", n)]) for n in range(100)]
        for future in futures:
            one, two = future.result()
            assert (one.seq + 1, one.hash) == (two.seq, two.prev)

    def test_an_append_of_no_events_makes_none(self, journal):
        assert journal.append_now("run/a", []) == []
        assert journal.append_now("run/a", [("first", None)])[0].seq == 1

    def test_what_has_no_canonical_form_is_refused_and_the_journal_lives(self, journal):
        with pytest.raises(ValueError, match="nan"):
            journal.append("run/a", [("good", 1), ("bad", float("nan"))])
        for name in ("", "a\nb", "a\x00", "x" * 256):
            with pytest.raises(ValueError, match="no name"):
                journal.append(name, [("kind", 1)])
            with pytest.raises(ValueError, match="no name"):
                journal.append("run/a", [(name, 1)])
        assert journal.append_now("run/a", [("good", 2)])[0].seq == 1

    def test_a_cancelled_append_is_made_whole_or_not_at_all_and_the_journal_lives(self, journal):
        futures = [journal.append("run/a", [("step", n)]) for n in range(200)]
        gone = {n for n, future in enumerate(futures) if future.cancel()}
        for n in gone:
            with pytest.raises(CancelledError):
                futures[n].result()
        journal.append_now("run/b", [("after", None)])
        assert {entry.body for entry in journal.read("run/a")} == set(range(200)) - gone
        journal.verify()

    def test_closing_makes_the_appends_that_wait_and_refuses_later_ones(self, where):
        with opened(where) as journal:
            futures = [journal.append("run/a", [("step", n)]) for n in range(1_500)]
        assert [future.result()[0].seq for future in futures] == list(range(1, 1_501))
        with pytest.raises(JournalBroken, match="is closed"):
            journal.append_now("run/a", [("late", None)])
        with opened(where) as journal:
            assert len(journal.read("run/a")) == 1_500

    def test_a_journal_that_is_open_is_refused_to_this_and_to_another_process(self, where):
        script = (
            "import sys; from hanse.coordinator.journal import Journal as J; J.open(sys.argv[1])"
        )
        with opened(where):
            with pytest.raises(ConfigError, match="is in use"):
                Journal.open(where)
            done = subprocess.run(
                [sys.executable, "-c", script, where], capture_output=True, text=True
            )
            assert done.returncode == 1
            assert "ConfigError" in done.stderr
            assert "is in use" in done.stderr
        with opened(where) as journal:
            assert journal.append_now("run/a", [("step", 1)])[0].seq == 1

    def test_a_changed_event_is_noticed_at_the_start_and_named(self, where):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", n) for n in range(5)])
        tamper(where, "UPDATE event SET body = '7' WHERE seq = 3")
        with pytest.raises(ConfigError, match=r"event 3 of .* has hash"):
            Journal.open(where)

    @pytest.mark.parametrize("change", ["stream = 'run/b'", "kind = 'stop'", f"prev = '{1:064}'"])
    def test_every_member_of_an_event_is_chained(self, where, change):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", n) for n in range(3)])
        tamper(where, f"UPDATE event SET {change} WHERE seq = 2")
        with pytest.raises(ConfigError, match="event 2 of"):
            Journal.open(where)

    def test_a_removed_event_is_noticed_at_the_start(self, where):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", n) for n in range(5)])
        tamper(where, "DELETE FROM event WHERE seq = 3")
        with pytest.raises(ConfigError, match=r"event 4 of .* comes where event 3 should be"):
            Journal.open(where)

    def test_a_change_is_noticed_however_many_events_came_after_it(self, where):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", n) for n in range(1_010)])
            journal.verify()
        tamper(where, "UPDATE event SET body = '7' WHERE seq = 3")
        with pytest.raises(ConfigError, match="event 3 of"):
            Journal.open(where)

    def test_a_missing_start_is_noticed_at_the_start(self, where):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", n) for n in range(5)])
        tamper(where, "DELETE FROM event WHERE seq = 1")
        with pytest.raises(ConfigError, match="event 1 should be"):
            Journal.open(where)

    def test_a_failed_write_fails_what_waits_and_what_comes_and_is_told_once(self, where):
        failures = []
        with opened(where, on_failure=failures.append) as journal:
            journal.append_now("run/a", [("before", None)])
            tamper(where, "ALTER TABLE event RENAME TO away")
            futures = [journal.append("run/a", [("lost", n)]) for n in range(20)]
            for future in futures:
                with pytest.raises(JournalBroken, match=r"could not write.*event"):
                    future.result()
            tamper(where, "ALTER TABLE away RENAME TO event")
            with pytest.raises(JournalBroken, match="could not write"):
                journal.append_now("run/a", [("later", None)])
            assert [type(failure) for failure in failures] == [JournalBroken]
        with opened(where) as journal:
            assert [entry.kind for entry in journal.read("run/a")] == ["before"]

    def test_a_writer_that_came_around_the_lock_is_not_overwritten(self, where):
        with opened(where) as journal:
            journal.append_now("run/a", [("step", 1)])
            row = f"(2, 'run/a', 'step', '2', 'x', '{2:064}', 0)"
            tamper(where, f"INSERT INTO event VALUES {row}")
            with pytest.raises(JournalBroken, match="could not write"):
                journal.append_now("run/a", [("step", 3)])

    def test_a_killed_process_has_lost_nothing_that_was_acknowledged(self, where):
        script = """
import sys
from hanse.coordinator.journal import Journal
journal = Journal.open(sys.argv[1])
for n in range(100_000):
    journal.append("run/a", [("ahead", n)])
    print(journal.append_now("run/a", [("acknowledged", n)])[0].seq, flush=True)
"""
        command = [sys.executable, "-c", script, where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            seen = [int(process.stdout.readline()) for _ in range(20)]
            process.kill()
            seen += [int(line) for line in process.stdout.readlines() if line.endswith("\n")]
        with reopened(where) as journal:
            journal.verify()
            assert set(seen) <= {entry.seq for entry in journal.read("run/a")}


@contextmanager
def reopened(where):
    """A server needs a moment to notice that a killed client is gone, and to free its lock."""
    for _ in range(100):
        try:
            journal = Journal.open(where)
            break
        except ConfigError as error:
            assert "in use" in str(error)  # noqa: PT017
            threading.Event().wait(0.02)
    else:
        pytest.fail("the lock outlives its process")
    yield journal
    journal.close()


def test_files_of_a_journal_are_for_their_owner_alone(tmp_path):
    with opened(tmp_path / "journal.db") as journal:
        journal.append_now("run/a", [("step", 1)])
        modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
        names = ("journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock")
        assert modes == dict.fromkeys(names, 0o600)


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path):
    with opened(tmp_path / "journal.db") as journal:
        cursor = journal._writer._connection.connection.cursor()
        found = {
            p: cursor.execute(f"PRAGMA {p}").fetchone() for p in ("journal_mode", "synchronous")
        }
        assert found == {"journal_mode": ("wal",), "synchronous": (2,)}


def test_a_path_may_hold_characters_that_urls_treat_apart(tmp_path):
    path = tmp_path / "a b?mode=ro#%41.db"
    with opened(path) as journal:
        journal.append_now("run/a", [("step", 1)])
    assert path.exists()


def test_a_full_disk_fails_the_append(tmp_path):
    script = """
import resource, signal, sys
from hanse.coordinator.journal import Journal, JournalBroken
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal.open(sys.argv[1], on_failure=lambda error: print("told"))
journal.append_now("run/a", [("small", "x")])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    journal.append_now("run/a", [("large", "x" * 500_000)])
except JournalBroken as error:
    print("failed")
"""
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.stdout.split() == ["told", "failed"], done.stderr
    with opened(path) as journal:
        assert [entry.kind for entry in journal.read("run/a")] == ["small"]


def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear colleague, " * 500)
    with pytest.raises(ConfigError, match="cannot be opened: file is not a database"):
        Journal.open(path)
    assert path.read_text() == "Dear colleague, " * 500


def test_a_folder_that_is_not_there_is_an_error_of_the_operators(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        Journal.open(tmp_path / "nowhere" / "journal.db")


def test_a_server_that_ends_the_connection_fails_the_journal(postgres_url):
    with opened(postgres_url) as journal:
        journal.append_now("run/a", [("step", 1)])
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        with pytest.raises(JournalBroken, match="terminat"):
            journal.append_now("run/a", [("step", 2)])
        assert [entry.body for entry in journal.read("run/a")] == [1]


def test_a_role_that_does_not_wait_for_the_disk_is_made_to(postgres_url):
    tamper(
        postgres_url,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',"
        " current_database()); END $$",
    )
    with opened(postgres_url) as journal:
        shown = journal._writer._connection.exec_driver_sql("SHOW synchronous_commit").scalar()
        assert shown == "on"


def test_a_connection_that_reads_a_server_cannot_write(postgres_url):
    with (
        opened(postgres_url) as journal,
        journal._reading.connect() as reading,
        pytest.raises(InternalError, match="read-only transaction"),
    ):
        reading.exec_driver_sql("DELETE FROM event")


def test_an_unreachable_server_is_an_error_of_the_operators_without_the_password():
    with pytest.raises(ConfigError, match="database heart cannot be opened") as caught:
        Journal.open("postgresql://anna:s3cret@127.0.0.1:1/heart")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("url", ["mysql://host/heart", "postgresql://host:port:port/heart"])
def test_another_url_is_refused_with_what_would_do(url):
    with pytest.raises(ConfigError) as caught:
        Journal.open(url)
    assert "postgresql://" in caught.value.hint


def test_a_link_that_was_forged_with_a_hash_that_fits_is_found(tmp_path):
    """Whoever can write there can compute hashes too: the next row still names the old one."""
    path = tmp_path / "journal"
    with closing(Journal.open(path)) as journal:
        rows = [journal.append_now("run/a", [("begun", {"n": n})])[0] for n in range(4)]
    told = {"seq": 2, "stream": "run/a", "kind": "begun", "body": '{"n":7}', "prev": rows[0].hash}
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "UPDATE event SET body = ?, hash = ? WHERE seq = 2", (told["body"], chain_hash(**told))
        )
        database.commit()
    with pytest.raises(ConfigError, match=r"event 3 .* names .* as the hash before it"):
        Journal.open(path)
