"""Facts -> JSON that names no patient unless asked to, and its POST; knows no receiver's own format."""

import json
from collections.abc import Sequence
from typing import Any

from triage.config import WebhookOutput
from triage.dicom import wording
from triage.notify.attempts import accepted, refused
from triage.notify.facts import Facts, certainty_percent
from triage.notify.http_post import Answer, Dialect, post_all, status_detail
from triage.records import SendReport

SCHEMA = "ich-triage.result"

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come without."""


def build_json(facts: Facts, uid: str, identifiers: bool) -> bytes:
    """Build one message.

    Args:
        facts: What to say.
        uid: Of the message.
        identifiers: Whether to name the study and patient, and to tell why a study was not analysed, in words that may
            quote a description somebody typed at the scanner.

    Returns:
        UTF-8 JSON, keys in a fixed order.

    Raises:
        StudyError: A probability is no number from 0 to 1.
    """
    result = facts.result
    message: dict[str, Any] = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "message_uid": uid,
        "event": "correction" if facts.supersedes else "result",
        "node": facts.node_name,
        "study": facts.study_id,
        "analysis": result.run,
        "outcome": result.outcome.value,
        "priority": result.priority.value,
        "headline": wording.headline(result),
        "findings": [
            {
                "label": f.label,
                "name": wording.NAMES[f.label],
                "present": f.present,
                "percent": certainty_percent(f),
                "threshold_percent": round(100 * float(f.threshold), 1),
            }
            for f in result.findings
        ],
        "started_at": facts.started.isoformat(timespec="milliseconds"),
        "finished_at": facts.finished.isoformat(timespec="milliseconds"),
        "model": {
            "name": result.model.name,
            "version": result.model.version,
            "architecture": result.model.architecture,
            "sha256": result.model.sha256,
            "intended_use": result.model.intended_use,
        },
        "demonstration": result.model.is_demonstration,
        "warnings": list(facts.warnings),
    }
    if identifiers:
        message["identifiers"] = {
            "study_instance_uid": facts.identity.study_uid,
            "accession_number": facts.identity.accession_number,
            "patient_id": facts.identity.patient_id,
            "issuer_of_patient_id": facts.identity.issuer_of_patient_id,
        }
        message["reason"] = result.reason
    return json.dumps(message, ensure_ascii=False, indent=1).encode("utf-8")


def send_json(output: WebhookOutput, contents: Sequence[bytes]) -> list[SendReport]:
    """Post messages; any 2xx means accepted, whatever its body.

    Args:
        output: The receiver.
        contents: Messages of `build_json`.

    Returns:
        A report a message, in order.
    """
    dialect = Dialect("application/json", "*/*", _headers, _judge, reads_body=False)
    return post_all(output, contents, dialect)


def _headers(content: bytes) -> dict[str, str]:
    """By which a receiver knows a message that it had already, because its answer was lost."""
    message = json.loads(content)
    if not isinstance(message, dict) or not isinstance(uid := message.get("message_uid"), str):
        raise ValueError("no message of ours")
    return {"Idempotency-Key": uid}


def _judge(answer: Answer) -> SendReport:
    detail = status_detail(answer)
    return accepted(detail) if answer.is_success else refused(detail)
