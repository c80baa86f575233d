"""Facts -> a FHIR R4 transaction bundle; sends nothing.

A server must not end up with two truths, whether a message is repeated because its answer was lost or a later analysis
corrects an earlier one. So every resource has an identifier of the study, not of the analysis, and is written by a
conditional update (R4 3.1.0.4.3): created the first time, replaced after. A label that a correction does not judge any
more is replaced by a cancelled observation. Only the task is a conditional create, one a priority: it is never put back
to "requested" when somebody has worked on it, and a correction that finds nothing leaves it, for a priority once given
stands.
"""

import uuid
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

import triage
from triage.dicom import codes, wording
from triage.dicom.equipment import MANUFACTURER, MODEL_NAME
from triage.dicom.uids import device_uid, result_uid
from triage.errors import StudyError
from triage.notify.facts import Facts, certainty_percent
from triage.records import ANY, LABELS, Outcome, Priority

Json = dict[str, Any]

SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://www.radlex.org",
}
"""By DICOM's coding scheme designator (HL7 terminology, and R4 4.3.0)."""

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"

URI = "urn:ietf:rfc:3986"
"""System of identifiers that are URIs themselves."""

DICOM_UID = "urn:dicom:uid"

TASK_PRIORITIES = {Priority.URGENT: "stat", Priority.REVIEW: "urgent"}


@dataclass(frozen=True, slots=True)
class Systems:
    """By which systems the server knows patients and orders: a reference by identifier alone is not followed by all."""

    patient: str = ""
    """Of patient IDs; empty: not told."""
    order: str = ""
    """Of accession numbers, or placer order numbers where there is none."""


@dataclass(frozen=True, slots=True)
class _Resource:
    """A resource and the identifier under which the server keeps it."""

    body: Json
    system: str
    uid: str

    @property
    def full_url(self) -> str:
        """What other resources of the bundle refer to; the server puts its own address in its place."""
        return f"urn:uuid:{uuid.UUID(int=int(self.uid.rpartition('.')[2]))}"

    @property
    def reference(self) -> Json:
        """A reference from another resource of the bundle."""
        return {"reference": self.full_url, "type": self.body["resourceType"]}

    @property
    def query(self) -> str:
        """Search for the resource by its identifier."""
        return f"identifier={self.system}%7Curn:oid:{self.uid}"


def build_bundle(facts: Facts, uid: str, systems: Systems) -> bytes:
    """Build one message.

    Args:
        facts: What to say.
        uid: Of the message.
        systems: Of the identifiers by which patient and order are referred to.

    Returns:
        UTF-8 JSON of a Bundle that fhir.resources finds valid.

    Raises:
        StudyError: It does not; the message names the element, never its value.
    """
    from fhir.resources.R4B.bundle import Bundle  # takes a fifth of a second, which most commands need not pay

    device = _device(facts)
    observations = [_observation(facts, label, device, systems) for label in _labels(facts)]
    report = _report(facts, observations, systems)
    entries = [_put(r) for r in (device, *observations, report)]
    if facts.is_positive and facts.result.priority in TASK_PRIORITIES:
        entries.append(_post_once(_task(facts, device, observations[0], systems)))
    bundle: Json = {
        "resourceType": "Bundle", "type": "transaction", "identifier": _identifier(URI, uid),
        "timestamp": _instant(facts), "entry": entries,
    }  # fmt: skip
    try:
        return Bundle.model_validate(bundle).model_dump_json(exclude_none=True).encode("utf-8")
    except ValidationError as e:
        where = ".".join(map(str, e.errors(include_input=False, include_url=False)[0]["loc"]))
        raise StudyError(f"no valid FHIR bundle can be made: {where}") from None  # its cause quotes values


def _labels(facts: Facts) -> tuple[str, ...]:
    """What there must be an observation of; after a correction, also of what the earlier analysis may have judged."""
    if facts.supersedes:
        return LABELS
    return tuple(f.label for f in facts.result.findings) or (ANY,)


def _device(facts: Facts) -> _Resource:
    """The software with this very model pack (IHE AI Results 6.5.3)."""
    model, uid = facts.result.model, device_uid(facts.result.model.sha256)
    body: Json = {
        "resourceType": "Device", "identifier": [_identifier(DICOM_UID, uid)], "status": "active",
        "manufacturer": MANUFACTURER, "deviceName": [{"name": MODEL_NAME, "type": "model-name"}],
        "version": [{"value": triage.__version__}, {"value": f"model pack {wording.model_line(model)}"}],
        "note": [{"text": text} for text in facts.warnings],
    }  # fmt: skip
    return _Resource(body, DICOM_UID, uid)


def _observation(facts: Facts, label: str, device: _Resource, systems: Systems) -> _Resource:
    code, uid = codes.FINDINGS[label], _study_uid(facts, f"observation-{label}")
    # the first coding is for machines; the text tells the intraventricular from any other hemorrhage
    name = wording.NAMES[label] if label == ANY else f"{wording.NAMES[label]} hemorrhage"
    body: Json = {
        "resourceType": "Observation", "identifier": [_identifier(URI, uid)],
        "category": [_concept(f"{TERMINOLOGY}/observation-category", "imaging", "Imaging")],
        "code": {**_coded(code.finding), "text": name},
        **_about(facts, systems), "issued": _instant(facts), "device": device.reference,
        "derivedFrom": [_study(facts)], "note": [{"text": text} for text in facts.warnings],
    }  # fmt: skip
    if code.site is not None:
        body["bodySite"] = _coded(code.site)
    return _Resource(body | _answer(facts, label), URI, uid)


def _answer(facts: Facts, label: str) -> Json:
    """What an observation says: present or absent with its certainty, or that nothing was observed."""
    finding = facts.result.finding(label)
    if finding is None or facts.result.outcome is Outcome.NOT_ANALYSED:
        absent = _concept(f"{TERMINOLOGY}/data-absent-reason", "not-performed", "Not Performed")
        if facts.result.outcome is Outcome.NOT_ANALYSED:
            absent["text"] = f"Not analysed: {facts.result.reason or 'no reason given'}"
        return {"status": "cancelled", "dataAbsentReason": absent}
    answer: Json = {
        "status": "preliminary",
        "valueCodeableConcept": _coded(codes.PRESENT if finding.present else codes.ABSENT),
        "component": [
            {"code": _coded(codes.CERTAINTY), "valueQuantity": _percent(certainty_percent(finding))},
            {"code": {"text": "Threshold"}, "valueQuantity": _percent(round(100 * float(finding.threshold), 1))},
        ],
    }
    if finding.present:
        answer["interpretation"] = [_interpretation(facts)]
    return answer


def _report(facts: Facts, observations: list[_Resource], systems: Systems) -> _Resource:
    uid = _study_uid(facts, "report")
    body: Json = {
        "resourceType": "DiagnosticReport", "identifier": [_identifier(URI, uid)], "status": "preliminary",
        "category": [_concept(f"{TERMINOLOGY}/v2-0074", "RAD", "Radiology")], "code": _coded(codes.CT_HEAD),
        **_about(facts, systems), "issued": _instant(facts), "result": [o.reference for o in observations],
        "imagingStudy": [_study(facts)], "conclusion": "\n".join(facts.remarks),
    }  # fmt: skip
    if order := _order(facts, systems):
        body["basedOn"] = [order]
    if facts.is_positive:
        concluded = [codes.INTRACRANIAL_HEMORRHAGE]
        if facts.result.priority in codes.ACTIONABLE:
            concluded.append(codes.ACTIONABLE[facts.result.priority])
        body["conclusionCode"] = [_coded(code) for code in concluded]
    return _Resource(body, URI, uid)


def _task(facts: Facts, device: _Resource, observation: _Resource, systems: Systems) -> _Resource:
    """The wish that somebody reads this study before others."""
    priority = TASK_PRIORITIES[facts.result.priority]
    uid = _study_uid(facts, f"task-{priority}")
    body: Json = {
        "resourceType": "Task", "identifier": [_identifier(URI, uid)], "status": "requested", "intent": "proposal",
        "priority": priority,
        "code": _concept("http://hl7.org/fhir/CodeSystem/task-code", "fulfill", "Fulfill the focal request"),
        "description": f"Read this head CT early: {wording.headline(facts.result)}.",
        "focus": _study(facts), "authoredOn": _instant(facts), "requester": device.reference,
        "reasonReference": observation.reference, "note": [{"text": text} for text in facts.warnings],
    }  # fmt: skip
    if subject := _patient(facts, systems):
        body["for"] = subject
    if order := _order(facts, systems):
        body["basedOn"] = [order]
    return _Resource(body, URI, uid)


def _put(resource: _Resource) -> Json:
    kind = resource.body["resourceType"]
    return {"fullUrl": resource.full_url, "resource": resource.body,
            "request": {"method": "PUT", "url": f"{kind}?{resource.query}"}}  # fmt: skip


def _post_once(resource: _Resource) -> Json:
    return {"fullUrl": resource.full_url, "resource": resource.body,
            "request": {"method": "POST", "url": resource.body["resourceType"],
                        "ifNoneExist": resource.query}}  # fmt: skip


def _study_uid(facts: Facts, role: str) -> str:
    """The same for every analysis of the study by this node, whatever its model."""
    return result_uid(facts.result.study_uid, "", "", 0, f"{facts.node_name}/fhir-{role}")


def _about(facts: Facts, systems: Systems) -> Json:
    """Whose study, and when it was made: a date, for a time must have its zone, which images seldom tell."""
    about: Json = {}
    if subject := _patient(facts, systems):
        about["subject"] = subject
    if len(date := facts.identity.study_date) == 8:
        about["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return about


def _patient(facts: Facts, systems: Systems) -> Json:
    """A reference by identifier: which Patient that is, the server knows."""
    who = facts.identity
    if not who.patient_id:
        return {}
    identifier: Json = {"type": _concept(f"{TERMINOLOGY}/v2-0203", "MR", "Medical record number"),
                        "value": who.patient_id}  # fmt: skip
    if systems.patient:
        identifier["system"] = systems.patient
    if who.issuer_of_patient_id:
        identifier["assigner"] = {"display": who.issuer_of_patient_id}
    return {"type": "Patient", "identifier": identifier}


def _study(facts: Facts) -> Json:
    return {"type": "ImagingStudy", "identifier": _identifier(DICOM_UID, facts.identity.study_uid)}


def _order(facts: Facts, systems: Systems) -> Json:
    """The order by its accession number, else by its placer's number."""
    who = facts.identity
    kind = ("ACSN", "Accession ID") if who.accession_number else ("PLAC", "Placer Identifier")
    if not (value := who.accession_number or who.placer_order_number):
        return {}
    identifier: Json = {"type": _concept(f"{TERMINOLOGY}/v2-0203", *kind), "value": value}
    if systems.order:
        identifier["system"] = systems.order
    return {"type": "ServiceRequest", "identifier": identifier}


def _identifier(system: str, uid: str) -> Json:
    return {"system": system, "value": f"urn:oid:{uid}"}


def _coded(code: Any) -> Json:
    return _concept(SYSTEMS[code.scheme_designator], code.value, code.meaning)


def _concept(system: str, code: str, display: str) -> Json:
    return {"coding": [{"system": system, "code": code, "display": display}]}


def _interpretation(facts: Facts) -> Json:
    display = {"AA": "Critical abnormal", "A": "Abnormal"}[facts.abnormal_flag]
    return _concept(f"{TERMINOLOGY}/v3-ObservationInterpretation", facts.abnormal_flag, display)


def _percent(value: float) -> Json:
    return {"value": value, "unit": "%", "system": SYSTEMS["UCUM"], "code": "%"}


def _instant(facts: Facts) -> str:
    return facts.finished.isoformat(timespec="milliseconds")
