"""FHIR and webhook over real HTTP: http_post, fhir_answer and webhook together."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom.results_data import STUDY, make_result, not_analysed, set_to
from message_peers import (
    Certificate,
    HttpReceiver,
    Reply,
    Talk,
    closed_port,
    dripping,
    make_certificate,
    silent,
    tcp_server,
)
from notify.conftest import OUTCOMES, STUDY_ID, MakeFacts
from peers import HOST

from triage.config import FhirOutput, WebhookOutput
from triage.logs import configure_logging
from triage.notify.attempts import NOT_SENT
from triage.notify.facts import Facts
from triage.notify.http_post import MAX_ANSWER_BYTES
from triage.notify.outputs import build, message_uid, send
from triage.records import Finding, SendOutcome, Volume

ACCEPTED, REFUSED, UNREACHABLE = SendOutcome.ACCEPTED, SendOutcome.REFUSED, SendOutcome.UNREACHABLE

PATIENT = "TEST-0001"


def fhir(url: str, **changes: object) -> FhirOutput:
    values: dict[str, object] = {"name": "fhir", "url": url, "connect_timeout_s": 5.0, "response_timeout_s": 5.0}
    return FhirOutput.model_validate(values | changes)


def hook(url: str, **changes: object) -> WebhookOutput:
    values: dict[str, object] = {"name": "hook", "url": url, "connect_timeout_s": 5.0, "response_timeout_s": 5.0}
    return WebhookOutput.model_validate(values | changes)


def answer(*statuses: str) -> bytes:
    entries = [{"response": {"status": s}} for s in statuses]
    return json.dumps({"resourceType": "Bundle", "type": "transaction-response", "entry": entries}).encode()


def outcome(severity: str, code: object) -> bytes:
    issue = {"severity": severity, "code": code, "diagnostics": f"no patient {PATIENT}"}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


# --- FHIR


def test_bundles_go_over_one_connection_and_arrive_byte_for_byte(facts: MakeFacts) -> None:
    with HttpReceiver([Reply(200, answer("201 Created", "200 OK")), Reply(204)]) as server:
        output = fhir(server.url)
        content = build(output, facts())
        reports = send(output, [content, content])
    assert [(r.outcome, r.detail) for r in reports] == [(ACCEPTED, "HTTP 200"), (ACCEPTED, "HTTP 204")]
    assert [r.body for r in server.received] == [content, content]
    assert server.connections == 1
    assert server.received[0].path == "/in?key=secret"
    assert server.received[0].headers["content-type"] == "application/fhir+json"
    assert server.received[0].headers["accept"] == "application/fhir+json"


@pytest.mark.parametrize(
    ("reply", "expected", "detail"),
    [
        (Reply(201, outcome("information", "informational")), ACCEPTED, "HTTP 201"),
        (Reply(200, answer("200 OK", "409 Conflict", "422")), REFUSED,
         "HTTP 200, yet 2 of 3 entries failed, the first with 409"),
        (Reply(200, answer(PATIENT)), REFUSED, "HTTP 200, yet 1 of 1 entries failed, the first with no status"),
        (Reply(200, outcome("error", "processing")), REFUSED, "HTTP 200, yet processing"),
        (Reply(200, b"<html>Please log in</html>"), REFUSED, "HTTP 200, but the answer is no FHIR bundle; see url"),
        (Reply(200, b"[" * 100_000), REFUSED, "HTTP 200, but the answer is no FHIR bundle; see url"),
        (Reply(422, outcome("error", "business-rule")), REFUSED, "HTTP 422: business-rule"),
        (Reply(400, outcome("error", PATIENT)), REFUSED, "HTTP 400: an issue without a known code"),
        (Reply(400, outcome("error", [PATIENT])), REFUSED, "HTTP 400: an issue without a known code"),
        (Reply(401), REFUSED, "HTTP 401 (see token_file)"),
        (Reply(503, b"\xff\xfe junk"), REFUSED, "HTTP 503"),
        (Reply(307, b"", (("Location", "http://elsewhere.invalid/"),)), REFUSED,
         "HTTP 307: the server redirects; put the final address into url"),
    ],
)  # fmt: skip
def test_what_a_fhir_server_answers_is_judged_and_never_quoted(
    reply: Reply, expected: SendOutcome, detail: str
) -> None:
    with HttpReceiver([reply, Reply(204)]) as server:
        first, second = send(fhir(server.url), [b"{}", b"{}"])
    assert (first.outcome, first.detail) == (expected, detail)
    assert second.outcome is ACCEPTED


def test_an_endless_answer_is_not_read(tmp_path: Path) -> None:
    with HttpReceiver([Reply(200, b" " * (MAX_ANSWER_BYTES + 1))]) as server:
        first, second = send(fhir(server.url), [b"{}", b"{}"])
    assert (first.outcome, first.was_tried, second.was_tried) == (REFUSED, True, False)
    assert "longer than" in first.detail


# --- webhook


def test_a_webhook_gets_json_with_a_key_by_which_it_knows_a_repetition(facts: MakeFacts) -> None:
    with HttpReceiver([Reply(202, b"anything")]) as server:
        output, made = hook(server.url), facts(supersedes=True)
        (report,) = send(output, [build(output, made)])
    assert (report.outcome, report.detail) == (ACCEPTED, "HTTP 202")
    (request,) = server.received
    message = json.loads(request.body)
    uid = message_uid("hook", made.result, made.node_name)
    assert request.headers["idempotency-key"] == message["message_uid"] == uid
    assert request.headers["content-type"] == "application/json"
    assert (message["schema"], message["version"]) == ("ich-triage.result", 1)
    assert (message["event"], message["study"]) == ("correction", STUDY_ID)
    assert (message["outcome"], message["priority"]) == ("positive", "urgent")
    assert message["findings"][0] == {
        "label": "any", "name": "Intracranial hemorrhage", "present": True, "percent": 97.3,
        "threshold_percent": 50.0}  # fmt: skip


@pytest.mark.parametrize("kind", OUTCOMES)
def test_warnings_stand_in_every_message(kind: str, outcomes: dict[str, Facts]) -> None:
    message = json.loads(build(hook("http://hook"), outcomes[kind]))
    text = " ".join(message["warnings"])
    assert "NOT FOR DIAGNOSTIC USE" in text
    assert message["demonstration"] == ("DEMONSTRATION MODEL" in text) == (kind != "validated")


IDENTIFYING = {
    "PatientName": "Nov\u00e1kov\u00e1^\u013dubica", "PatientID": "PID-93847", "PatientBirthDate": "19470911",
    "IssuerOfPatientID": "ISSUER-X", "AccessionNumber": "ACC-55512", "StudyDescription": "SECRET DESCRIPTION",
    "PlacerOrderNumberImagingServiceRequest": "PLACER-7", "FillerOrderNumberImagingServiceRequest": "FILLER-8",
    "ReferringPhysicianName": "Doctor^Who", "StudyDate": "20230317", "StudyTime": "031415",
}  # fmt: skip


def test_certainty_is_never_0_or_100(facts: MakeFacts, volume: Volume) -> None:
    sure = tuple(Finding(label, p, 0.5, p > 0.5, ()) for label, p in (("any", 0.99999), ("epidural", 0.00001)))
    message = json.loads(build(hook("http://h"), facts(result=make_result(volume, findings=sure))))
    assert [f["percent"] for f in message["findings"]] == [99.9, 0.1]


@pytest.mark.parametrize("is_analysed", [True, False])
def test_a_webhook_names_no_patient_unless_asked_to(is_analysed: bool, facts: MakeFacts) -> None:
    reason = "no usable series: series 1: SeriesDescription 'NOVAKOVA' says 'scout'"
    made = facts(*(set_to(k, v) for k, v in IDENTIFYING.items()), result=None if is_analysed else not_analysed(reason))
    secret = [*IDENTIFYING.values(), "Nov\u00e1kov\u00e1", "NOVAKOVA", STUDY, made.result.series_uid or STUDY]
    text = build(hook("http://hook"), made).decode("utf-8")
    assert not [s for s in secret if s in text]
    assert not [s for s in secret if s in json.dumps(json.loads(text), ensure_ascii=True)]

    named = json.loads(build(hook("http://hook", identifiers=True), made))
    assert named["identifiers"] == {
        "study_instance_uid": STUDY, "accession_number": "ACC-55512", "patient_id": "PID-93847",
        "issuer_of_patient_id": "ISSUER-X"}  # fmt: skip
    assert named["reason"] == ("" if is_analysed else reason)
    assert "Nov\u00e1kov\u00e1" not in json.dumps(named, ensure_ascii=False)


def test_a_file_that_is_no_message_is_refused_and_the_next_goes_on(facts: MakeFacts) -> None:
    with HttpReceiver() as server:
        output = hook(server.url)
        reports = send(output, [b"", b"[]", b"\xff", build(output, facts())])
    assert [r.outcome for r in reports] == [REFUSED, REFUSED, REFUSED, ACCEPTED]
    assert len(server.received) == 1


# --- both: the line


def headers_then_drip(line: socket.socket, over: threading.Event) -> None:
    line.recv(65536)
    dripping(line, over, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")


def status_drip(line: socket.socket, over: threading.Event) -> None:
    dripping(line, over, b"HTTP/1.1 200 O")


def cut_off(line: socket.socket, over: threading.Event) -> None:
    line.recv(100)


def cut_off_in_the_answer(line: socket.socket, over: threading.Event) -> None:
    line.recv(65536)
    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def junk(line: socket.socket, over: threading.Event) -> None:
    line.recv(65536)
    line.sendall(b"\x0bMSH|^~\\&|RIS\r\x1c\r\n\r\n")


LATE, CUT = "no answer within 0.6 s", "the line was cut, or the answer is no HTTP"


@pytest.mark.parametrize(
    ("talk", "detail"),
    [(silent, LATE), (status_drip, LATE), (headers_then_drip, LATE), (cut_off, CUT), (cut_off_in_the_answer, CUT),
     (junk, CUT)],
)  # fmt: skip
def test_servers_that_misbehave_cost_a_bounded_time(talk: Talk, detail: str) -> None:
    began = time.monotonic()
    with tcp_server(talk) as port:
        output = fhir(f"http://{HOST}:{port}/", connect_timeout_s=0.3, response_timeout_s=0.3)
        first, second = send(output, [b"{}", b"{}"])
        assert time.monotonic() - began < 5.0
    assert (first.outcome, first.detail, first.was_tried) == (UNREACHABLE, detail, True)
    assert (second.outcome, second.detail, second.was_tried) == (UNREACHABLE, NOT_SENT, False)


def test_the_log_does_not_show_an_address_that_holds_a_secret(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure_logging("INFO")
        with HttpReceiver([Reply(204)]) as server:
            (report,) = send(hook(server.url), [b'{"message_uid": "1"}'])
    finally:
        root.handlers, root.level = handlers, level
        logging.captureWarnings(capture=False)
    assert report.outcome is ACCEPTED
    assert "secret" not in capfd.readouterr().err


def test_nobody_there_is_told_without_the_address_s_secrets() -> None:
    port = closed_port()
    (report,) = send(fhir(f"http://user:pw@{HOST}:{port}/in?key=secret"), [b"{}"])
    assert report.outcome is UNREACHABLE
    assert f"no connection to {HOST}:{port}" in report.detail
    assert "secret" not in report.detail
    assert "pw" not in report.detail


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "http://a..b/", f"http://{64 * 'a'}.b/"])
def test_addresses_that_cannot_be_used_are_told(url: str) -> None:
    (report,) = send(fhir(url), [b"{}"])
    assert report.outcome is not ACCEPTED
    assert report.detail


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:{closed_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HttpReceiver([Reply(204)]) as server:
        (report,) = send(fhir(server.url), [b"{}"])
    assert report.outcome is ACCEPTED


# --- both: certificates and secrets


def test_tls_with_the_certificate_named(certificate: Certificate) -> None:
    with HttpReceiver([Reply(204)], certificate.server_context()) as server:
        (report,) = send(fhir(server.url, ca_file=certificate.cert), [b"{}"])
    assert report.outcome is ACCEPTED


def test_a_certificate_of_somebody_else_is_not_trusted(certificate: Certificate, tmp_path: Path) -> None:
    stranger = make_certificate(tmp_path)
    with HttpReceiver([Reply(204)], certificate.server_context()) as server:
        (report,) = send(fhir(server.url, ca_file=stranger.cert), [b"{}"])
        (by_system,) = send(fhir(server.url), [b"{}"])
    assert report.outcome is by_system.outcome is UNREACHABLE
    assert "its certificate is not trusted" in report.detail
    assert not server.received


def test_a_token_is_read_anew_at_each_attempt(tmp_path: Path) -> None:
    token = tmp_path / "token"
    with HttpReceiver([Reply(204)]) as server:
        for value in ("first", "second"):
            token.write_text(f"{value}\n")
            send(fhir(server.url, token_file=token), [b"{}"])
    assert [r.headers["authorization"] for r in server.received] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", "\u017e".encode(), b"x" * 10_000])
def test_a_token_that_is_missing_or_none_is_a_refusal_that_quotes_nothing(
    content: bytes | None, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    if content is not None:
        token.write_bytes(content)
    with HttpReceiver() as server:
        (report,) = send(fhir(server.url, token_file=token), [b"{}"])
    assert report.outcome is REFUSED
    assert report.detail.startswith("token_file: ")
    assert "lines" not in report.detail.replace("on one line", "")
    assert not server.received


@pytest.mark.parametrize("make", [hook, fhir])
def test_nothing_to_send_opens_no_connection(make: Callable[..., WebhookOutput | FhirOutput]) -> None:
    assert send(make(f"http://{HOST}:{closed_port()}/"), []) == []
