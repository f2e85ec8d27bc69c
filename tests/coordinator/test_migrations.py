"""The schema's history ends in the schema that the code uses."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from hanse.config.specification import read_layout, read_spec
from hanse.coordinator import migrations
from hanse.coordinator.history import History
from hanse.coordinator.journal import Journal
from hanse.coordinator.migrations import upgrade
from hanse.coordinator.registry import Registry, fold
from hanse.coordinator.schema import METADATA
from hanse.core import course
from hanse.core.events import from_json
from hanse.errors import ConfigError


@pytest.fixture
def engine(where):
    url = where.replace("postgresql:", "postgresql+psycopg:") if "://" in where else None
    engine = create_engine(url or f"sqlite:///{where}")
    yield engine
    engine.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_code(engine):
    with engine.begin() as connection:
        upgrade(connection)
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_migrating_twice_changes_nothing(engine):
    for _ in range(2):
        with engine.begin() as connection:
            upgrade(connection)
    assert set(inspect(engine).get_table_names()) == {"alembic_version", "event"}


def test_a_migration_that_is_not_committed_leaves_nothing(where):
    with pytest.raises(RuntimeError, match="power cut"):
        migrate_and_stop(where)
    Journal.open(where).close()


def migrate_and_stop(where):
    """As the journal's own writer migrates, but something happens before the commit."""
    journal = Journal.open(where)
    try:
        with journal._writer._connection.begin():
            for table in ("event", "alembic_version"):
                journal._writer._connection.exec_driver_sql(f"DROP TABLE {table}")
            upgrade(journal._writer._connection)
            raise RuntimeError("power cut")
    finally:
        journal.close()


def test_a_journal_of_a_newer_hanse_is_refused_and_left_as_it_is(where):
    Journal.open(where).close()
    connection = psycopg.connect(where) if "://" in where else sqlite3.connect(where)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    with pytest.raises(ConfigError, match="has schema 9999"):
        Journal.open(where)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


# Journals of released versions, kept for ever: NUMBER.sql is SQLite's dump, NUMBER.json the run.

RELEASED = sorted(Path(__file__).with_name("released").glob("*.sql"))


def filled(where: str, dump: Path) -> None:
    """Make the database of a dump at ``where``, in SQLite or PostgreSQL."""
    text = dump.read_text()
    if "://" not in where:
        with closing(sqlite3.connect(where)) as database:
            database.executescript(text)
        return
    for of_sqlite, of_postgres in (
        ("BEGIN TRANSACTION;", "BEGIN;"),
        ("STRICT", ""),
        ("INTEGER NOT NULL", "BIGINT NOT NULL"),
    ):
        text = text.replace(of_sqlite, of_postgres)
    with psycopg.connect(where, autocommit=True) as database:
        database.execute(text)


@pytest.mark.parametrize("dump", RELEASED, ids=lambda path: path.stem)
def test_the_journal_of_every_released_version_is_taken_up(where, dump):
    filled(where, dump)
    with closing(Journal.open(where)) as journal:
        assert journal.verify() == len(re.findall('^INSERT INTO "event"', dump.read_text(), re.M))
        registry = Registry()
        for entry in journal.read("registry"):
            registry = fold(registry, entry.kind, entry.body)
        assert {name: site.revoked for name, site in registry.sites.items()} == {
            "ada": False,
            "bob": True,
        }
        told = json.loads(dump.with_suffix(".json").read_text())
        read = read_spec(told["spec"], read_layout(told["layout"]))
        (stream,) = journal.streams("run/")
        begun, *events = journal.read(stream)
        now = course.begin(read.spec, begun.body["model"])
        for entry in events:
            now = course.step(now, from_json(entry.kind, entry.body))
        assert (now.outcome, now.round, now.told) == ("done", 3, {"ada", "bob"})
        journal.append_now(stream, [("late", {})])


NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade():
    op.add_column("event", sa.Column("note", sa.Text))
"""


@pytest.fixture
def next_schema(tmp_path, monkeypatch):
    """As if this version of Hanse had one schema more."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder)
    (folder / "versions" / "v0002_note.py").write_text(NEXT)
    monkeypatch.setattr(migrations, "FOLDER", folder)


def test_an_older_journal_is_copied_before_it_is_brought_up_to_date(where, next_schema):
    filled(where, RELEASED[0])
    with closing(Journal.open(where)) as journal:
        before = journal.verify()
        journal.append_now("registry", [("revoked", {"name": "ada"})])
        assert journal.verify() == before + 1
    if "://" in where:
        with psycopg.connect(where) as database:
            kept = database.execute("SELECT count(*) FROM before_0002.event").fetchone()
        assert kept == (before,)
        return
    path = Path(f"{where}.before-0002")
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert database.execute("SELECT count(*) FROM event").fetchone() == (before,)


def test_a_journal_that_is_up_to_date_is_not_copied(tmp_path):
    for _ in range(2):
        Journal.open(tmp_path / "journal.db").close()
    assert [path.name for path in tmp_path.glob("*.before-*")] == []


def test_who_only_reads_does_not_bring_a_journal_up_to_date(where, next_schema):
    filled(where, RELEASED[0])
    with pytest.raises(ConfigError, match="has schema 0001, not 0002"), History.of(where):
        pass
