"""The schema's history, and the way from any of its versions to this one."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from hanse.errors import ConfigError

FOLDER = Path(__file__).parent


def upgrade(connection: Connection) -> None:
    """Bring the database to this version's schema, inside the transaction of ``connection``.

    Whoever calls commits, so that a stop in the middle leaves the old schema whole. ConfigError if
    a newer Hanse has written the database.
    """
    _check_known(connection, "the journal")
    command.upgrade(_config(connection), "head")


def keep_old(connection: Connection) -> None:
    """Copy what is of an older schema, before it is upgraded; outside of a transaction.

    SQLite's file goes to one beside it, ``….before-NEW``; PostgreSQL's table to a schema
    ``before_NEW`` of the same database.
    """
    with connection.begin():
        found = _check_known(connection, "the journal")
    if found is not None and found != _head():
        _copy(connection)


def check_known(connection: Connection, name: str) -> None:
    """Raise ConfigError unless the database has this version's schema."""
    found = _check_known(connection, name)
    if found != _head():
        raise ConfigError(
            f"{name} has {f'schema {found}' if found else 'no journal in it'}, not {_head()}",
            hint="hanse coordinator start brings an older one up to date",
        )


def _check_known(connection: Connection, name: str) -> str | None:
    """Return the schema that is found, None if there is none yet; ConfigError for a newer one."""
    known = {revision.revision for revision in _scripts().walk_revisions()}
    heads = MigrationContext.configure(connection).get_current_heads()
    for found in heads:
        if found not in known:
            raise ConfigError(
                f"{name} has schema {found}, which this version of Hanse does not know",
                hint="start the version of Hanse that wrote it, or a later one",
            )
    return heads[0] if heads else None


def _copy(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        with connection.begin():  # ended here: a database is not copied within a transaction
            file = str(connection.exec_driver_sql("PRAGMA database_list").all()[0][2])
        target = Path(f"{file}.before-{_head()}")
        target.unlink(missing_ok=True)  # of a start that was stopped
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(target)) as copy:
            connection.connection.driver_connection.backup(copy)  # pyright: ignore
        return
    name = f"before_{_head()}"
    with connection.begin():
        connection.exec_driver_sql(f'DROP SCHEMA IF EXISTS "{name}" CASCADE')
        connection.exec_driver_sql(f'CREATE SCHEMA "{name}"')
        connection.exec_driver_sql(f'CREATE TABLE "{name}".event AS TABLE event')


def _head() -> str:
    return str(_scripts().get_current_head())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config(None))


def _config(connection: Connection | None) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
