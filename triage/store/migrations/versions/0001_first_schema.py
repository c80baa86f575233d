"""First schema: reception, analyses, results and their deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "association", "study", "identity", "series", "instance", "analysis", "finding", "verdict", "set_aside",
    "result_object", "delivery",
)  # fmt: skip


def upgrade() -> None:
    """Go to this revision."""
    _studies()
    _series_and_instances()
    _analyses()
    _findings_and_verdicts()
    _objects_and_deliveries()


def downgrade() -> None:
    """Go back to an empty database."""
    for name in reversed(TABLES):
        op.drop_table(name)


def _reference(table: str, target: str) -> sa.ForeignKeyConstraint:
    """A row goes with the row it belongs to."""
    name = f"fk_{table}_{target}_id_{target}"
    return sa.ForeignKeyConstraint([f"{target}_id"], [f"{target}.id"], name=name, ondelete="CASCADE")


def _studies() -> None:
    op.create_table(
        "association",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("closed_at", sa.Double()),
        sa.PrimaryKeyConstraint("key", name="pk_association"),
    )
    op.create_index("ix_association_closed_at", "association", ["closed_at"])
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_at", sa.Double(), nullable=False),
        sa.Column("first_arrival_at", sa.Double(), nullable=False),
        sa.Column("last_arrival_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.Double()),
        sa.Column("forced", sa.Boolean(), nullable=False),
        sa.Column("images_deleted_at", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
    )
    op.create_index("ix_study_state", "study", ["state"])
    op.create_index("ix_study_last_arrival_at", "study", ["last_arrival_at"])
    op.create_table(
        "identity",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("accession_number", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("study_id", name="pk_identity"),
        sa.UniqueConstraint("study_uid", name="uq_identity_study_uid"),
        _reference("identity", "study"),
    )
    op.create_index("ix_identity_accession_number", "identity", ["accession_number"])


def _series_and_instances() -> None:
    op.create_table(
        "series",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("series_number", sa.BigInteger()),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("modality", sa.Text(), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_at", sa.Double(), nullable=False),
        sa.Column("first_arrival_at", sa.Double(), nullable=False),
        sa.Column("last_arrival_at", sa.Double(), nullable=False),
        sa.Column("longest_pause_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_series"),
        sa.UniqueConstraint("study_id", "series_uid", name="uq_series_study_id_series_uid"),
        _reference("series", "study"),
    )
    op.create_index("ix_series_state", "series", ["state"])
    op.create_table(
        "instance",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("series_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("association", sa.String(64), nullable=False),
        sa.Column("positions_mm", sa.JSON(), nullable=False),
        sa.Column("instance_numbers", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_instance"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_instance_sop_instance_uid"),
        _reference("instance", "series"),
    )
    op.create_index("ix_instance_series_id", "instance", ["series_id"])


def _analyses() -> None:
    op.create_table(
        "analysis",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double()),
        sa.Column("fault", sa.Text(), nullable=False),
        sa.Column("superseded_by", sa.Integer()),
        sa.Column("outcome", sa.String(16)),
        sa.Column("priority", sa.String(16)),
        sa.Column("p_any", sa.Double()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("demonstration", sa.Boolean(), nullable=False),
        sa.Column("instance_uids", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_analysis"),
        sa.UniqueConstraint("study_id", "run", name="uq_analysis_study_id_run"),
        sa.ForeignKeyConstraint(["superseded_by"], ["analysis.id"], name="fk_analysis_superseded_by_analysis"),
        _reference("analysis", "study"),
    )


def _findings_and_verdicts() -> None:
    op.create_table(
        "finding",
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(32), nullable=False),
        sa.Column("p", sa.Double(), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("key_slices", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("analysis_id", "label", name="pk_finding"),
        _reference("finding", "analysis"),
    )
    op.create_table(
        "verdict",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("chosen", sa.Boolean(), nullable=False),
        sa.Column("reasons", sa.JSON(), nullable=False),
        sa.Column("n_instances", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_verdict"),
        _reference("verdict", "analysis"),
    )
    op.create_index("ix_verdict_analysis_id", "verdict", ["analysis_id"])
    op.create_table(
        "set_aside",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_set_aside"),
        _reference("set_aside", "analysis"),
    )
    op.create_index("ix_set_aside_analysis_id", "set_aside", ["analysis_id"])


def _objects_and_deliveries() -> None:
    op.create_table(
        "result_object",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("analysis_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_result_object"),
        sa.UniqueConstraint("sop_instance_uid", name="uq_result_object_sop_instance_uid"),
        _reference("result_object", "analysis"),
    )
    op.create_index("ix_result_object_analysis_id", "result_object", ["analysis_id"])
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("object_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("state_at", sa.Double(), nullable=False),
        sa.Column("queued_at", sa.Double(), nullable=False),
        sa.Column("next_attempt_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sa.UniqueConstraint("object_id", "destination", name="uq_delivery_object_id_destination"),
        sa.ForeignKeyConstraint(
            ["object_id"], ["result_object.id"], name="fk_delivery_object_id_result_object", ondelete="CASCADE"
        ),
    )
    op.create_index(
        "ix_delivery_state_destination_next_attempt_at", "delivery", ["state", "destination", "next_attempt_at"]
    )
