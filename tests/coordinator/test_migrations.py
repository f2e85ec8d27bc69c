"""The schema's history ends in the schema that the code uses."""

import sqlite3

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect

from hanse.coordinator.journal import Journal
from hanse.coordinator.migrations import upgrade
from hanse.coordinator.schema import METADATA
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
