"""The tables and the states stored in them; runs no SQL.

Times are seconds since the epoch (UTC). Paths are relative to node.data_dir, so that the folder can be moved. Patient
name, ID and birth date are stored nowhere; what identifies a study stands in `identity` and nowhere else as a column.
A change here needs a revision in `migrations/versions` and its name in `REVISION`.
"""

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

REVISION = "0002"
"""Revision of the schema that this code needs: the newest one in `migrations/versions`."""

UID_CHARACTERS = 64
"""PS3.5 9.1: a UID has at most 64 characters."""

ACCESSION_CHARACTERS = 64
"""Accession numbers are cut here; PS3.5 6.2, VR SH allows 16 and scanners send more."""

STATE_CHARACTERS = 16


class SeriesState(StrEnum):
    """Where a series stands."""

    RECEIVING = "receiving"
    COMPLETE = "complete"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

association = Table(
    "association",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("calling_ae", String(16), nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double, index=True),  # null: open
)

study = Table(
    "study",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", String(STATE_CHARACTERS), nullable=False, index=True),
    Column("state_at", Double, nullable=False),  # when the state was entered
    Column("first_arrival_at", Double, nullable=False),
    Column("last_arrival_at", Double, nullable=False, index=True),
    Column("attempts", Integer, nullable=False),  # claims of the analysis that is due or running
    Column("retry_at", Double),  # not claimed before
    Column("forced", Boolean, nullable=False),  # a person asked for a new analysis
    Column("images_deleted_at", Double),
)

identity = Table(
    "identity",
    metadata,
    Column("study_id", ForeignKey("study.id", ondelete="CASCADE"), primary_key=True),
    Column("study_uid", String(UID_CHARACTERS), nullable=False, unique=True),
    Column("accession_number", String(ACCESSION_CHARACTERS), nullable=False, index=True),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("series_uid", String(UID_CHARACTERS), nullable=False),
    Column("series_number", BigInteger),
    Column("description", Text, nullable=False),
    Column("modality", Text, nullable=False),
    Column("calling_ae", String(16), nullable=False),  # who sent its first instance
    Column("state", String(STATE_CHARACTERS), nullable=False, index=True),
    Column("state_at", Double, nullable=False),
    Column("first_arrival_at", Double, nullable=False),
    Column("last_arrival_at", Double, nullable=False),
    Column("longest_pause_s", Double, nullable=False),
    UniqueConstraint("study_id", "series_uid"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sop_instance_uid", String(UID_CHARACTERS), nullable=False, unique=True),
    Column("sop_class_uid", String(UID_CHARACTERS), nullable=False),
    Column("transfer_syntax_uid", String(UID_CHARACTERS), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("association", String(64), nullable=False),  # no foreign key: closed associations are forgotten
    Column("positions_mm", JSON, nullable=False),
    Column("instance_numbers", JSON, nullable=False),  # of the same length as positions_mm
)

analysis = Table(
    "analysis",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    Column("run", Integer, nullable=False),
    Column("claimed_at", Double, nullable=False),
    Column("finished_at", Double),  # null: not finished; at most one such row a study
    Column("fault", Text, nullable=False),  # what the last attempt failed of, by type
    Column("superseded_by", ForeignKey("analysis.id")),
    Column("outcome", String(STATE_CHARACTERS)),
    Column("priority", String(STATE_CHARACTERS)),
    Column("p_any", Double),
    Column("reason", Text, nullable=False),
    Column("demonstration", Boolean, nullable=False),
    Column("instance_uids", JSON, nullable=False),  # what was chosen for analysis
    Column("result", JSON),  # the whole Result
    UniqueConstraint("study_id", "run"),
)

finding = Table(
    "finding",
    metadata,
    Column("analysis_id", ForeignKey("analysis.id", ondelete="CASCADE"), primary_key=True),
    Column("label", String(32), primary_key=True),
    Column("p", Double, nullable=False),
    Column("threshold", Double, nullable=False),
    Column("present", Boolean, nullable=False),
    Column("key_slices", JSON, nullable=False),
)

verdict = Table(
    "verdict",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("analysis_id", ForeignKey("analysis.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("series_uid", String(UID_CHARACTERS), nullable=False),
    Column("chosen", Boolean, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("n_instances", Integer, nullable=False),
    Column("score", Double),
)

set_aside = Table(
    "set_aside",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("analysis_id", ForeignKey("analysis.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sop_instance_uid", String(UID_CHARACTERS), nullable=False),
    Column("frame", Integer, nullable=False),
    Column("reason", Text, nullable=False),
)

result_object = Table(
    "result_object",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("analysis_id", ForeignKey("analysis.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),  # ObjectKind
    Column("sop_class_uid", String(UID_CHARACTERS), nullable=False),  # empty: a message, no DICOM object
    Column("sop_instance_uid", String(UID_CHARACTERS), nullable=False, unique=True),  # of a message: its own UID
    Column("series_uid", String(UID_CHARACTERS), nullable=False, server_default=text("''")),  # empty: message, old row
    Column("path", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("object_id", ForeignKey("result_object.id", ondelete="CASCADE"), nullable=False),
    Column("destination", String(32), nullable=False),
    Column("state", String(STATE_CHARACTERS), nullable=False),
    Column("state_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("next_attempt_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("status", Integer),  # DIMSE or HTTP status of the last attempt, where there was one
    Column("detail", Text, nullable=False),
    Column("accepted_at", Double),  # of the last acceptance; null again while it is sent anew
    Column("committed_at", Double),
    Column("commit_due_at", Double),  # when to ask for storage commitment; null: not to be asked for
    Column("commit_attempts", Integer, nullable=False, server_default="0"),
    UniqueConstraint("object_id", "destination"),
    Index(None, "state", "destination", "next_attempt_at"),
    Index(None, "destination", "commit_due_at"),
)

commitment = Table(
    "commitment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("transaction_uid", String(UID_CHARACTERS), nullable=False, index=True),
    Column("destination", String(32), nullable=False),
    Column("delivery_id", ForeignKey("delivery.id", ondelete="CASCADE"), index=True),  # null: the doctor's test object
    Column("sop_instance_uid", String(UID_CHARACTERS), nullable=False),
    Column("asked_at", Double, nullable=False),
    Column("answered_at", Double),  # null: not answered
    Column("failure_reason", Integer),  # (0008,1197), where the answer is a failure
)
"""One row for each object in each request for storage commitment: answers may come late, twice or after a restart."""
