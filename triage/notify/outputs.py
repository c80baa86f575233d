"""One way in for every kind of message: which outputs want it, its bytes, and one attempt to hand it over."""

from collections.abc import Sequence

from triage.config import FhirOutput, Hl7Output, MessageOutput, WebhookOutput
from triage.dicom.uids import result_uid
from triage.notify.facts import Facts
from triage.notify.fhir_answer import send_bundles
from triage.notify.fhir_bundle import Systems, build_bundle
from triage.notify.hl7_message import build_message
from triage.notify.mail import build_mail, send_mails
from triage.notify.mllp import send_messages
from triage.notify.webhook import build_json, send_json
from triage.records import Outcome, Result, SendReport


def wants(output: MessageOutput, result: Result) -> bool:
    """Say whether an output gets a message about a result.

    Args:
        output: The receiver.
        result: The analysis.

    Returns:
        False for a receiver of positives only where the study is negative or was not analysed.
    """
    return not output.only_positive or result.outcome is Outcome.POSITIVE


def message_uid(output_name: str, result: Result, node_name: str) -> str:
    """Make the UID of the message about one analysis to one output.

    Args:
        output_name: Unique among all outputs.
        result: The analysis.
        node_name: Who says so.

    Returns:
        A UID under 2.25; the same for every attempt, so that a receiver can tell a repeated message.
    """
    role = f"{node_name}/message/{output_name}"
    return result_uid(result.study_uid, result.series_uid or "", result.model.sha256, result.run, role)


def build(output: MessageOutput, facts: Facts) -> bytes:
    """Build the message about one analysis in the format of one output.

    Args:
        output: The receiver.
        facts: What to say.

    Returns:
        The message as it is stored and handed to `send`.

    Raises:
        StudyError: The facts cannot be said in this format; the message names the field, never its value.
    """
    uid = message_uid(output.name, facts.result, facts.node_name)
    if isinstance(output, Hl7Output):
        receiver = (output.receiving_application, output.receiving_facility)
        return build_message(facts, uid, output.sending_facility, receiver)
    if isinstance(output, FhirOutput):
        return build_bundle(facts, uid, Systems(output.patient_system, output.order_system))
    if isinstance(output, WebhookOutput):
        return build_json(facts, uid, output.identifiers)
    return build_mail(output, facts, uid)


def send(output: MessageOutput, contents: Sequence[bytes]) -> list[SendReport]:
    """Try once to hand messages over, in order and over one line.

    Args:
        output: The receiver.
        contents: What `build` made for this output.

    Returns:
        A report a message, in order, without UIDs. No fault of peer, network or file raises; after a line was lost the
        other messages count as not tried.
    """
    if not contents:
        return []
    if isinstance(output, Hl7Output):
        return send_messages(output, contents)
    if isinstance(output, FhirOutput):
        return send_bundles(output, contents)
    if isinstance(output, WebhookOutput):
        return send_json(output, contents)
    return send_mails(output, contents)
