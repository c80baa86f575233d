"""Brings the schema up to date with Alembic, from the installed package; needs no alembic.ini.

A developer makes a new revision from a difference between `schema` and a database that is up to date with

    python -m triage.store.migrate "what changes" sqlite:///scratch.db
"""

import sys
import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from triage.errors import ConfigError
from triage.store.schema import REVISION

SCRIPTS = Path(__file__).parent / "migrations"

_ALEMBIC = threading.Lock()
"""Alembic keeps its context in globals."""


def alembic_config(connection: Connection | None = None) -> Config:
    """What an alembic.ini would say.

    Args:
        connection: To work on; the caller ends its transaction.

    Returns:
        The configuration.
    """
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> None:
    """Bring the schema to this code's revision, in one transaction; nothing where it is there.

    Args:
        engine: On any database, also an empty one.

    Raises:
        ConfigError: A newer version of the node has been here.
    """
    with engine.begin() as connection:
        if current_revision(connection) == REVISION:
            return
    with _ALEMBIC, engine.execution_options(writing=True).begin() as connection:
        try:
            command.upgrade(alembic_config(connection), "head")
        except CommandError as e:
            raise ConfigError(
                f"database.url: the database has schema {current_revision(connection)}, unknown to this version; "
                "install the version that wrote it, or name another database"
            ) from e


def current_revision(connection: Connection) -> str | None:
    """The revision a database is at.

    Args:
        connection: To the database.

    Returns:
        Its name; None for an empty database.
    """
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def newest_revision() -> str | None:
    """The newest revision among the scripts; `schema.REVISION` must name it."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def _new_revision(message: str, url: str) -> None:
    """Write a revision script: the difference between the schema and a database."""
    with create_engine(url).begin() as connection:
        config = alembic_config(connection)
        command.upgrade(config, "head")
        command.revision(config, message, autogenerate=True, rev_id=f"{int(REVISION) + 1:04d}")


if __name__ == "__main__":
    _new_revision(*sys.argv[1:3])
