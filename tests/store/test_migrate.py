from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from store.store_bench import Bench

from triage.errors import ConfigError
from triage.store.db import open_database
from triage.store.migrate import SCRIPTS, alembic_config, current_revision, newest_revision
from triage.store.schema import REVISION, metadata


def test_migrations_lead_to_the_schema(bench: Bench) -> None:
    with bench.db.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        foreign_keys = {t: len(inspect(connection).get_foreign_keys(t)) for t in metadata.tables}
    assert foreign_keys == {name: len(table.foreign_keys) for name, table in metadata.tables.items()}


def test_the_code_names_the_newest_revision(bench: Bench) -> None:
    assert newest_revision() == REVISION
    with bench.db.reading() as connection:
        assert current_revision(connection) == REVISION


def test_migrations_lead_back(tmp_path: Path) -> None:
    with create_engine(f"sqlite:///{tmp_path / 'x.db'}").begin() as connection:
        command.upgrade(alembic_config(connection), "head")
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_opening_again_changes_nothing(bench: Bench) -> None:
    study_id = bench.arrive()
    url = f"sqlite:///{bench.store.root / 'triage.db'}"
    with open_database(url, bench.store.root) as again, again.reading() as connection:
        assert connection.execute(text("SELECT id FROM study")).scalars().all() == [study_id]


def test_a_newer_database_is_refused(bench: Bench) -> None:
    with bench.db.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match=r"database\.url.*9999"):
        open_database(f"sqlite:///{bench.store.root / 'triage.db'}", bench.store.root)


def test_an_installation_has_the_scripts() -> None:
    """Setuptools takes the folders that are packages, all the way up."""
    scripts = list((SCRIPTS / "versions").glob("0*.py"))
    assert scripts
    for folder in (SCRIPTS, SCRIPTS / "versions"):
        assert (folder / "__init__.py").exists()
