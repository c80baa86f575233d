"""Alembic's scripts: the steps from each schema to the next; run by triage.store.migrate only."""
