from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text
from store.store_bench import Bench

from triage.errors import ConfigError
from triage.store import commitment, outbox, queries
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


OLD_ROWS = """
    INSERT INTO study VALUES (1, 'analysed', 9, 1, 2, 0, NULL, 0, NULL);
    INSERT INTO identity VALUES (1, '1.2', 'A1');
    INSERT INTO analysis VALUES (1, 1, 1, 3, 4, '', NULL, 'positive', 'urgent', 0.9, '', 1, '[]', '{}');
    INSERT INTO result_object VALUES (1, 1, 'report', '1.2.840', '1.2.3', 'results/a.dcm', 4);
    INSERT INTO result_object VALUES (2, 1, 'capture', '1.2.840', '1.2.4', 'results/b.dcm', 4);
    INSERT INTO delivery VALUES (1, 1, 'pacs', 'accepted', 7, 4, 4, 1, 0, '');
    INSERT INTO delivery VALUES (2, 2, 'pacs', 'queued', 8, 4, 99, 2, 42752, 'refused: out of resources');
"""
"""What a node of the first schema has after a study, one object of which is delivered."""


def test_what_was_delivered_before_there_was_proof_stays(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    with create_engine(url).begin() as connection:
        command.upgrade(alembic_config(connection), "0001")
        for statement in OLD_ROWS.split(";")[:-1]:
            connection.execute(text(statement))
    with open_database(url, tmp_path) as db:
        first, second = (o["deliveries"][0] for o in queries.show(db, 1)["objects"])
        assert (first["state"], first["accepted_at"], first["commit_due_at"], first["commit_attempts"]) == (
            "accepted", 7, None, 0)  # fmt: skip
        assert (second["state"], second["accepted_at"], second["attempts"]) == ("queued", None, 2)
        assert commitment.due_for_commitment(db, "pacs", 1e9, 9) == []
        (due,) = outbox.take_due(db, "pacs", 99, 9)
        assert (due.id, due.kind) == (2, "capture")
        outbox.delivery_accepted(db, due.id, outbox.Acceptance(0, asks_commitment=True), 100)
        commitment.commitment_requested(db, "2.25.1", commitment.due_for_commitment(db, "pacs", 100, 9), 100, 999)
        commitment.commitment_answered(db, "2.25.1", {"1.2.4": None}, 101, lambda _: None)
    with create_engine(url).begin() as connection:
        command.downgrade(alembic_config(connection), "0001")
        rows = connection.execute(text("SELECT id, destination, state, attempts FROM delivery ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [(1, "pacs", "accepted", 1), (2, "pacs", "accepted", 2)]
        assert connection.execute(text("SELECT COUNT(*) FROM result_object")).scalar_one() == 2


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
