"""The schema's history, and the way from any of its versions to this one."""

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
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {revision.revision for revision in ScriptDirectory.from_config(config).walk_revisions()}
    for found in MigrationContext.configure(connection).get_current_heads():
        if found not in known:
            raise ConfigError(
                f"the journal has schema {found}, which this version of Hanse does not know",
                hint="start the version of Hanse that wrote it, or a later one",
            )
    command.upgrade(config, "head")
