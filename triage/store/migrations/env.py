"""What Alembic executes for each command; works on the connection and in the transaction of triage.store.migrate."""

from alembic import context

from triage.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters tables by copying them
)
with context.begin_transaction():
    context.run_migrations()
