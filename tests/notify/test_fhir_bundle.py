import json
from typing import Any

import pytest
from dicom.results_data import STUDY, make_result, negative, not_analysed, set_to
from fhir.resources.R4B import get_fhir_model_class
from notify.conftest import OUTCOMES, MakeFacts

from triage.config import FhirOutput
from triage.errors import StudyError
from triage.notify.facts import Facts
from triage.notify.outputs import build
from triage.records import LABELS, Finding, Priority, Volume

SERVER = FhirOutput(name="fhir", url="http://fhir.hospital/r4")

Json = dict[str, Any]


def read(facts: Facts) -> Json:
    bundle = json.loads(build(SERVER, facts))
    assert isinstance(bundle, dict)
    return bundle


def resources(bundle: Json, kind: str) -> list[Json]:
    return [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == kind]


def code(concept: Json) -> str:
    return str(concept["coding"][0]["code"])


def texts(resource: Json) -> str:
    return json.dumps(resource, ensure_ascii=False)


def test_references_have_the_systems_that_the_server_knows(facts: MakeFacts) -> None:
    server = SERVER.model_copy(update={"patient_system": "urn:oid:1.2.3", "order_system": "https://h.example/acc"})
    told = json.loads(build(server, facts()))
    (report,), (task,) = resources(told, "DiagnosticReport"), resources(told, "Task")
    assert report["subject"]["identifier"]["system"] == task["for"]["identifier"]["system"] == "urn:oid:1.2.3"
    assert report["basedOn"][0]["identifier"]["system"] == task["basedOn"][0]["identifier"]["system"]
    assert report["basedOn"][0]["identifier"]["system"] == "https://h.example/acc"
    assert {o["subject"]["identifier"]["system"] for o in resources(told, "Observation")} == {"urn:oid:1.2.3"}
    (report,) = resources(read(facts()), "DiagnosticReport")
    assert "system" not in report["subject"]["identifier"]
    assert "system" not in report["basedOn"][0]["identifier"]


class Server:
    """As much of a FHIR server as tells whether repeated bundles make one truth: conditional update and create."""

    def __init__(self) -> None:
        self.kept: dict[str, Json] = {}

    def take(self, bundle: Json) -> None:
        for entry in bundle["entry"]:
            request, resource = entry["request"], entry["resource"]
            conditional = request.get("ifNoneExist") or request["url"].partition("?")[2]
            system, _, value = conditional.removeprefix("identifier=").partition("%7C")
            assert {"system": system, "value": value} in resource["identifier"]
            key = f"{resource['resourceType']} {conditional}"
            if request["method"] == "PUT":
                self.kept[key] = resource
            else:
                assert (request["method"], request["url"]) == ("POST", resource["resourceType"])
                self.kept.setdefault(key, resource)

    def of(self, kind: str) -> list[Json]:
        return [r for r in self.kept.values() if r["resourceType"] == kind]


@pytest.mark.parametrize("kind", OUTCOMES)
def test_every_resource_is_valid_by_itself_and_in_the_bundle(kind: str, outcomes: dict[str, Facts]) -> None:
    bundle = read(outcomes[kind])
    get_fhir_model_class("Bundle").model_validate(bundle)
    for entry in bundle["entry"]:
        get_fhir_model_class(entry["resource"]["resourceType"]).model_validate(entry["resource"])
    urls = [e["fullUrl"] for e in bundle["entry"]]
    assert len(set(urls)) == len(urls)
    inner = [r["reference"] for o in resources(bundle, "DiagnosticReport") for r in o["result"]]
    inner += [o["device"]["reference"] for o in resources(bundle, "Observation")]
    assert set(inner) <= set(urls)


def test_what_is_invalid_is_not_sent_and_the_error_quotes_nothing(facts: MakeFacts, volume: Volume) -> None:
    infinite = Finding("any", 0.9, float("inf"), True, ())
    broken = facts(result=make_result(volume, findings=(infinite,)))
    with pytest.raises(StudyError, match=r"no valid FHIR bundle.*value") as error:
        build(SERVER, broken)
    assert "TEST-0001" not in str(error.value)
    assert error.value.__cause__ is None


def test_the_same_facts_make_the_same_bytes(facts: MakeFacts) -> None:
    assert build(SERVER, facts()) == build(SERVER, facts())


def test_a_positive_study(outcomes: dict[str, Facts]) -> None:
    bundle = read(outcomes["urgent"])
    by_text = {o["code"]["text"]: o for o in resources(bundle, "Observation")}
    whole = by_text["Intracranial hemorrhage"]
    assert (code(whole["code"]), code(whole["valueCodeableConcept"])) == ("1386000", "52101004")
    assert (whole["status"], code(whole["interpretation"][0])) == ("preliminary", "AA")
    assert [c["valueQuantity"]["value"] for c in whole["component"]] == [97.3, 50.0]
    ventricle = by_text["Intraventricular hemorrhage"]
    assert (code(ventricle["code"]), code(ventricle["bodySite"])) == ("50960005", "35764002")
    absent = by_text["Subarachnoid hemorrhage"]
    assert code(absent["valueCodeableConcept"]) == "272519000"
    assert "interpretation" not in absent
    (report,) = resources(bundle, "DiagnosticReport")
    assert (report["status"], code(report["code"]), len(report["result"])) == ("preliminary", "24725-4", 6)
    assert [code(c) for c in report["conclusionCode"]] == ["1386000", "RID49480"]
    (task,) = resources(bundle, "Task")
    assert (task["priority"], task["status"]) == ("stat", "requested")


def test_everything_is_tied_to_study_patient_and_order(facts: MakeFacts) -> None:
    bundle = read(facts(set_to("IssuerOfPatientID", "HOSP")))
    image = {"type": "ImagingStudy", "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY}"}}
    (report,), (task,) = resources(bundle, "DiagnosticReport"), resources(bundle, "Task")
    assert (report["imagingStudy"], task["focus"]) == ([image], image)
    for resource, key in ((report, "subject"), (task, "for"), (resources(bundle, "Observation")[0], "subject")):
        assert resource[key]["identifier"]["value"] == "TEST-0001"
        assert resource[key]["identifier"]["assigner"] == {"display": "HOSP"}
    assert report["basedOn"][0]["identifier"]["value"] == task["basedOn"][0]["identifier"]["value"] == "ACC0001"
    assert report["effectiveDateTime"] == "2024-01-05"


def test_review_asks_for_urgent_and_others_for_nothing(outcomes: dict[str, Facts]) -> None:
    (task,) = resources(read(outcomes["review"]), "Task")
    assert task["priority"] == "urgent"
    assert code(resources(read(outcomes["review"]), "Observation")[0]["interpretation"][0]) == "A"
    for kind in ("negative", "not analysed", "superseding"):
        assert not resources(read(outcomes[kind]), "Task")


def test_not_analysed_observes_nothing_and_says_why(outcomes: dict[str, Facts]) -> None:
    bundle = read(outcomes["not analysed"])
    (observation,), (report,) = resources(bundle, "Observation"), resources(bundle, "DiagnosticReport")
    assert code(observation["dataAbsentReason"]) == "not-performed"
    assert "valueCodeableConcept" not in observation
    assert "no usable series: series 1: localizer" in observation["dataAbsentReason"]["text"]
    assert "NOT ANALYSED: no usable series" in report["conclusion"]
    assert "conclusionCode" not in report


def test_warnings_stand_in_every_resource(outcomes: dict[str, Facts]) -> None:
    for kind, made in outcomes.items():
        for entry in read(made)["entry"]:
            text = texts(entry["resource"])
            assert "NOT FOR DIAGNOSTIC USE" in text
            assert ("DEMONSTRATION MODEL" in text) == (kind != "validated")


def test_a_repeated_bundle_makes_no_second_truth(facts: MakeFacts) -> None:
    server, bundle = Server(), read(facts())
    server.take(bundle)
    server.take(bundle)
    assert [len(server.of(k)) for k in ("Device", "Observation", "DiagnosticReport", "Task")] == [1, 6, 1, 1]


@pytest.mark.parametrize("later", ["negative", "not analysed"])
def test_a_correction_replaces_every_finding_of_the_analysis_before(
    later: str, facts: MakeFacts, volume: Volume
) -> None:
    server = Server()
    server.take(read(facts()))
    result = negative(volume, run=2) if later == "negative" else not_analysed(run=2)
    server.take(read(facts(result=result, supersedes=True)))
    observations = server.of("Observation")
    assert len(observations) == len(LABELS)
    assert not [o for o in observations if "interpretation" in o]
    stood = {o["code"]["text"]: o["status"] for o in observations}
    assert stood.pop("Intracranial hemorrhage") == ("preliminary" if later == "negative" else "cancelled")
    assert set(stood.values()) == {"cancelled"}
    assert "supersedes the previous report" in server.of("DiagnosticReport")[0]["conclusion"]


def test_a_task_is_never_put_back_or_lowered_but_raised(facts: MakeFacts, volume: Volume) -> None:
    server = Server()
    server.take(read(facts(result=make_result(volume, priority=Priority.REVIEW))))
    (task,) = server.of("Task")
    task["status"] = "completed"
    server.take(read(facts(result=make_result(volume, priority=Priority.REVIEW, run=2), supersedes=True)))
    assert [(t["priority"], t["status"]) for t in server.of("Task")] == [("urgent", "completed")]
    server.take(read(facts(result=make_result(volume, run=3), supersedes=True)))
    assert [t["priority"] for t in server.of("Task")] == ["urgent", "stat"]
    server.take(read(facts(result=negative(volume, run=4), supersedes=True)))
    assert [t["priority"] for t in server.of("Task")] == ["urgent", "stat"]


def test_certainty_is_never_0_or_100(facts: MakeFacts, volume: Volume) -> None:
    sure = [Finding(label, p, 0.5, p > 0.5, ()) for label, p in (("any", 0.99999), ("epidural", 0.00001))]
    told = resources(read(facts(result=make_result(volume, findings=tuple(sure)))), "Observation")
    assert [o["component"][0]["valueQuantity"]["value"] for o in told] == [99.9, 0.1]
