"""What has not arrived, why, and sending it again: the commands on a node's folder that is not running."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store.store_bench import Bench, make_bench, make_result

from triage.cli import main
from triage.config import Config
from triage.delivery_cli import advice
from triage.records import DeliveryState, Outcome
from triage.store import analysis, commitment, outbox, queries

Run = Callable[..., tuple[int, str, str]]

OUTPUTS = """
[node]
data_dir = "data"
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
storage_commitment = "required"
[[destinations]]
name = "pictures"
ae_title = "PICTURES"
host = "127.0.0.1"
port = 105
objects = ["capture"]
[[hl7]]
name = "ris"
host = "127.0.0.1"
port = 2575
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command in the node's folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "config.toml").write_text(OUTPUTS)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = capsys.readouterr()
        return (caught.value.code if isinstance(caught.value.code, int) else 0), out, err

    return run


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = make_bench(tmp_path / "data")
    yield bench
    bench.db.close()


NOW = time.time()


def fail(bench: Bench, detail: str, *, over: bool = False, destination: str = "pacs") -> None:
    """Everything that is due fails."""
    for delivery in bench.take(NOW + 1e6, destination):
        failure = outbox.Failure(0xA700, detail, None if over else NOW + 1e6)
        outbox.delivery_failed(bench.db, delivery.id, failure, NOW)


def test_what_has_not_arrived_is_listed_with_what_to_do(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result(Outcome.NEGATIVE, 0.1, reason=""))
    fail(bench, "refused: association rejected: calling AE title not recognised", over=True)
    bench.analysed("1.2.4", NOW, make_result(Outcome.NEGATIVE, 0.1))
    bench.deliver(NOW, asks_commitment=True)
    bench.analysed("1.2.5", NOW, make_result(Outcome.NEGATIVE, 0.1))
    bench.deliver(NOW)
    code, text, _ = run("deliveries")
    assert code == 0
    assert "given up" in text
    assert "Let pacs take associations from AE title ICHTRIAGE" in text
    assert "triage resend --given-up --to pacs" in text
    assert "The answer is awaited" in text
    code, text, _ = run("deliveries", "--json")
    rows = json.loads(text)
    assert [(r["study_id"], r["kind"], r["state"], r["attempts"]) for r in rows] == [
        (1, "report", "given up", 1), (2, "report", "accepted", 0)]  # fmt: skip
    assert (rows[0]["since"], rows[0]["next_attempt_at"], rows[0]["status"]) == (NOW, None, 0xA700)
    everything = json.loads(run("deliveries", "--json", "--all")[1])
    assert [(r["study_id"], r["state"], r["advice"] == "") for r in everything][2] == (3, "accepted", True)
    for secret in ("1.2.3", "1.2.4", "A1"):
        assert secret not in text


def test_with_nothing_wrong_it_says_so(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result())
    bench.deliver(NOW)
    assert "Nothing is given up, failing or waiting for commitment." in run("deliveries")[1]


def test_what_waits_for_an_output_that_is_no_more_is_listed(run: Run, bench: Bench) -> None:
    bench.arrive("1.2.3", NOW)
    bench.complete(NOW)
    bench.finish(bench.claim(NOW), make_result(Outcome.NEGATIVE, 0.1), NOW, ("former", "pacs"))
    (row,) = json.loads(run("deliveries", "--json")[1])
    assert (row["destination"], row["state"]) == ("former", "queued")
    assert "No output of this name is configured" in row["advice"]


def test_one_command_resends_all_that_was_given_up(run: Run, bench: Bench) -> None:
    for study in ("1.2.3", "1.2.4"):
        bench.analysed(study, NOW, make_result(Outcome.NEGATIVE, 0.1))
    fail(bench, "unreachable: no connection to 127.0.0.1:104", over=True)
    assert run("resend", "--given-up", "--to", "pictures")[1].startswith("nothing is given up")
    code, text, _ = run("resend", "--given-up")
    assert (code, text) == (0, "2 deliveries queued; the running node sends them\n")
    assert {r["state"] for r in json.loads(run("deliveries", "--json", "--all")[1])} == {"queued"}


def test_a_study_is_resent_to_one_output_or_to_all_that_want_it(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result())
    bench.deliver(NOW)
    assert run("resend", "1", "--to", "pictures")[1] == "study 1: 1 deliveries queued; the running node sends them\n"
    assert bench.due(time.time()) == []
    (capture,) = bench.due(time.time(), "pictures")
    assert capture.kind == "capture"
    assert run("resend", "1")[1] == "study 1: 3 deliveries queued; the running node sends them\n"
    assert len(bench.due(time.time())) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resend",), "name one study, or say --given-up"),
        (("resend", "1", "--given-up"), "name one study, or say --given-up"),
        (("resend", "1", "--to", "nobody"), "no output of this name is configured; there are: pacs, pictures, ris"),
    ],
)
def test_wrong_usage_is_told(run: Run, bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    bench.analysed("1.2.3", NOW, make_result())
    code, _, err = run(*arguments)
    assert (code, said in err) == (2, True)


def test_nothing_to_resend_is_told(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result(Outcome.NEGATIVE, 0.1))
    code, _, err = run("resend", "1", "--to", "pictures")
    assert (code, "nothing to send" in err) == (1, True)


def test_show_says_where_each_object_stands(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result())
    report, capture = bench.deliver(NOW, asks_commitment=True)
    commitment.commitment_requested(bench.db, "2.25.1", [report], NOW, NOW + 9)
    commitment.commitment_answered(bench.db, "2.25.1", {report.sop_instance_uid: None}, NOW + 1, lambda _: None)
    commitment.commitment_requested(bench.db, "2.25.2", [capture], NOW, NOW + 9)
    none = commitment.NotAsked(queries.NO_COMMITMENT, None)
    commitment.commitment_not_asked(bench.db, "2.25.2", none)
    text = run("show", "1")[1]
    lines = text[text.index("objects and where they stand:") :].splitlines()
    assert lines[1] == "  analysis 1 -> pacs: report"
    assert lines[3] == "  analysis 1 -> pacs: capture"
    of_report, of_capture = lines[2], lines[4]
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW))
    later = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(NOW + 1))
    assert all(part in of_report for part in (f"committed {later}", f"accepted {at}"))
    assert all(part in of_capture for part in (f"accepted {at}", queries.NO_COMMITMENT))
    assert later not in of_capture


def test_show_tells_together_what_stands_alike_newest_first(run: Run, bench: Bench) -> None:
    study_id = bench.analysed("1.2.3", NOW, make_result())
    assert run("show", "1")[1].splitlines()[-2:] == ["  analysis 1 -> pacs: report, capture", "    queued"]
    bench.deliver(NOW)
    analysis.request_reanalysis(bench.db, study_id, NOW)
    bench.finish(bench.claim(NOW + 1), make_result(Outcome.NEGATIVE, 0.1), NOW + 1, ())
    lines = run("show", "1")[1].splitlines()
    assert lines[-4:-2] == ["  analysis 2 -> nowhere: report", "    stays in node.data_dir"]
    assert lines[-2] == "  analysis 1 -> pacs: report, capture"
    assert lines[-1].startswith("    accepted ")


CONFIG = Config.model_validate(
    {
        "destinations": [{"name": "pacs", "ae_title": "PACS", "host": "h", "port": 104}],
        "hl7": [{"name": "ris", "host": "h", "port": 2575}],
    }
)

DETAILS = {
    "commitment refused: 0x0112 no such object instance": "says that it is not stored there",
    "refused: a fault of this node; see its log": "step_failed in its log",
    "refused: the file cannot be read (FileNotFoundError)": "`triage reanalyse 7` makes it anew",
    "unreachable: no connection to h:104": "Check host, port and firewall",
    "refused: association rejected: calling AE title not recognised": "Let pacs take associations from AE title",
    "refused: the peer does not take Key Object Selection Document Storage in Explicit VR": "Allow its SOP class",
    "refused: failure status 0xA700": "free space there",
    "refused: failure status 0xC123": "look for its reason in the log there",
}


def row_of(detail: str, **values: object) -> queries.DeliveryRow:
    given: dict[str, object] = {
        "study_id": 7, "kind": "report", "destination": "pacs", "state": DeliveryState.FAILED, "since": NOW,
        "attempts": 1, "next_attempt_at": NOW, "status": None, "detail": detail, "accepted_at": None,
        "committed_at": None, "superseded": False,
    }  # fmt: skip
    return queries.DeliveryRow(**(given | values))  # type: ignore[arg-type]  # checked by use


@pytest.mark.parametrize(("detail", "said"), DETAILS.items())
def test_each_kind_of_failure_has_its_advice(detail: str, said: str) -> None:
    status = int(detail[-6:], 16) if "status" in detail else None
    text = advice(row_of(detail, status=status), CONFIG)
    assert said in text
    assert text.endswith("It is sent again by itself.")
    given_up = advice(row_of(detail, status=status, state=DeliveryState.GIVEN_UP), CONFIG)
    assert said in given_up
    assert given_up.endswith("`triage resend --given-up --to pacs`.")


def test_advice_fits_the_state() -> None:
    accepted = {"state": DeliveryState.ACCEPTED, "accepted_at": NOW}
    assert advice(row_of("", state=DeliveryState.COMMITTED), CONFIG) == ""
    assert advice(row_of(queries.NO_COMMITMENT, next_attempt_at=None, **accepted), CONFIG) == ""
    assert advice(row_of("stored with coercion", next_attempt_at=None, **accepted), CONFIG) == ""
    required = "accepted; the peer offers no storage commitment, which is required"
    assert 'storage_commitment = "auto"' in advice(row_of(required, **accepted), CONFIG)
    never = "accepted; commitment did not come within 72 h"
    assert "`triage resend 7 --to pacs` asks again" in advice(row_of(never, next_attempt_at=None, **accepted), CONFIG)
    superseded = row_of("unreachable: x", state=DeliveryState.GIVEN_UP, superseded=True)
    assert "nothing to do" in advice(superseded, CONFIG)
    assert "nothing to do" not in advice(replace(superseded, kind="rejection"), CONFIG)
    assert "does not take the message" in advice(row_of("refused: AE", destination="ris", kind="message"), CONFIG)


@pytest.mark.parametrize(
    "detail",
    [
        "refused: token_file: the file cannot be read (No such file or directory)",
        "refused: password_file: the file holds no secret of visible ASCII characters on one line",
        "refused: ca_file: the file cannot be used (no certificate in PEM form)",
        "refused: url: no address that can be used; correct it",
    ],
)
def test_what_is_wrong_on_this_side_is_not_looked_for_on_the_other(detail: str) -> None:
    text = advice(row_of(detail, destination="ris", kind="message"), CONFIG)
    key = detail.split(": ")[1]
    assert text.startswith(f"Mend {key} of the output ris in the configuration of this node")


def test_a_certificate_that_is_not_trusted_is_no_matter_of_firewalls() -> None:
    detail = "unreachable: h:2575: its certificate is not trusted (self-signed certificate); see ca_file"
    text = advice(row_of(detail, destination="ris", kind="message"), CONFIG)
    assert "ca_file" in text
    assert "firewall" not in text


def test_what_retention_deleted_is_not_called_sent(run: Run, bench: Bench) -> None:
    bench.analysed("1.2.3", NOW, make_result(Outcome.NEGATIVE, 0.1))
    for delivery in bench.take(NOW + 1e6, "pacs"):
        outbox.delivery_failed(bench.db, delivery.id, outbox.Failure(None, "unreachable: x", None), NOW)
        delivery.path.unlink()
    assert "files" in run("resend", "--given-up")[1]
