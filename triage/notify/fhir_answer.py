"""POST of a FHIR bundle, and what a server's answer to it means; builds no bundle."""

import json
import re
from collections.abc import Sequence
from typing import Any

from triage.config import FhirOutput
from triage.notify.attempts import accepted, refused
from triage.notify.http_post import Answer, Dialect, post_all, status_detail
from triage.records import SendReport

CONTENT_TYPE = "application/fhir+json"

ISSUE_CODE = re.compile(r"[a-z][a-z-]{1,30}")
"""OperationOutcome.issue.code (R4 issue-type); its texts may quote the patient and are not told."""

FAULTS = ("error", "fatal")
"""OperationOutcome.issue.severity of what went wrong."""


def send_bundles(output: FhirOutput, contents: Sequence[bytes]) -> list[SendReport]:
    """Post bundles.

    Args:
        output: The receiver.
        contents: Messages of `fhir_bundle`.

    Returns:
        A report a bundle, in order.
    """
    dialect = Dialect(CONTENT_TYPE, CONTENT_TYPE, lambda _: {}, judge)
    return post_all(output, contents, dialect)


def judge(answer: Answer) -> SendReport:
    """Say what an answer means.

    Args:
        answer: The server's.

    Returns:
        Accepted for a success without a body, or with one in which every entry succeeded. A success with something that
        is no FHIR comes of a wrong address or a login page, and counts as refused.
    """
    detail, body = status_detail(answer), _resource(answer.body)
    if not answer.is_success:
        code = _issue(body)
        return refused(detail + (f": {code}" if code else ""))
    if not answer.body.strip():
        return accepted(detail)
    if body.get("resourceType") == "OperationOutcome":
        code = _issue(body, FAULTS)
        return refused(f"{detail}, yet {code}") if code else accepted(detail)
    if body.get("resourceType") != "Bundle":
        return refused(f"{detail}, but the answer is no FHIR bundle; see url")
    statuses = [_entry_status(entry) for entry in _list(body.get("entry"))]
    if failed := [status for status in statuses if not status.startswith("2")]:
        return refused(f"{detail}, yet {len(failed)} of {len(statuses)} entries failed, the first with {failed[0]}")
    return accepted(detail)


def _resource(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _entry_status(entry: object) -> str:
    """The three digits of Bundle.entry.response.status, or what stands for none."""
    response = entry.get("response") if isinstance(entry, dict) else None
    status = response.get("status") if isinstance(response, dict) else None
    match = re.match(r"[1-5]\d\d\b", status) if isinstance(status, str) else None
    return match[0] if match else "no status"


def _issue(outcome: dict[str, Any], severities: tuple[str, ...] = ()) -> str:
    """The first issue's code, of the severities named or of any."""
    for issue in _list(outcome.get("issue")):
        if isinstance(issue, dict) and (not severities or issue.get("severity") in severities):
            code = issue.get("code")
            return code if isinstance(code, str) and ISSUE_CODE.fullmatch(code) else "an issue without a known code"
    return ""
