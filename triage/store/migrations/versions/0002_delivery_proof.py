"""Delivery proof: when a destination accepted and committed an object, and every request for storage commitment."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Go to this revision; columns are added in place: SQLite would delete every delivery with a table made anew."""
    op.add_column("result_object", sa.Column("series_uid", sa.String(64), nullable=False, server_default=""))
    op.add_column("delivery", sa.Column("accepted_at", sa.Double()))
    op.add_column("delivery", sa.Column("committed_at", sa.Double()))
    op.add_column("delivery", sa.Column("commit_due_at", sa.Double()))
    op.add_column("delivery", sa.Column("commit_attempts", sa.Integer(), nullable=False, server_default="0"))
    op.create_index(op.f("ix_delivery_destination_commit_due_at"), "delivery", ["destination", "commit_due_at"])
    op.execute("UPDATE delivery SET accepted_at = state_at WHERE state = 'accepted'")
    op.create_table(
        "commitment",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("delivery_id", sa.Integer()),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("answered_at", sa.Double()),
        sa.Column("failure_reason", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["delivery.id"], name=op.f("fk_commitment_delivery_id_delivery"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
    )
    op.create_index(op.f("ix_commitment_transaction_uid"), "commitment", ["transaction_uid"])
    op.create_index(op.f("ix_commitment_delivery_id"), "commitment", ["delivery_id"])


def downgrade() -> None:
    """Go back to revision 0001."""
    op.drop_table("commitment")
    op.drop_index(op.f("ix_delivery_destination_commit_due_at"), "delivery")
    op.execute("UPDATE delivery SET state = 'accepted' WHERE state = 'committed'")
    op.execute("UPDATE delivery SET state = 'queued' WHERE state IN ('sent', 'failed')")
    for column in ("commit_attempts", "commit_due_at", "committed_at", "accepted_at"):
        op.drop_column("delivery", column)
    op.drop_column("result_object", "series_uid")
