import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from peers import HOST, Manners, Pacs, contexts_for, free_port, orthanc, storescp, write_ct
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import build_context

from triage.config import Destination
from triage.net import scu
from triage.net.line import associate, judge
from triage.records import SendOutcome, SendReport

ACCEPTED, REFUSED, UNREACHABLE = SendOutcome.ACCEPTED, SendOutcome.REFUSED, SendOutcome.UNREACHABLE


def destination(port: int, **changes: Any) -> Destination:
    values = {"name": "pacs", "ae_title": "PACS", "host": HOST, "port": port, "response_timeout_s": 20.0, **changes}
    return Destination.model_validate(values)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three objects of two SOP classes."""
    classes = (CTImageStorage, SecondaryCaptureImageStorage, CTImageStorage)
    made = [tmp_path / "objects" / f"{n}.dcm" for n in range(3)]
    for path, sop_class in zip(made, classes, strict=True):
        write_ct(path, sop_class)
    return made


@pytest.fixture(autouse=True)
def _no_patient_is_named(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    told = [r.getMessage() for when in ("setup", "call") for r in caplog.get_records(when)]
    assert not [m for m in told if "Secret" in m or "SECRET" in m]


def outcomes(reports: list[SendReport]) -> list[SendOutcome]:
    return [r.outcome for r in reports]


def data_set(path: Path) -> bytes:
    """The bytes after the file meta information."""
    meta = dcmread(path, stop_before_pixels=True).file_meta
    return path.read_bytes()[128 + 4 + 12 + meta.FileMetaInformationGroupLength :]


# Accepted


def test_sends_each_file_as_it_is_and_reports_in_order(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs") as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
        stored = pacs.wait_for(3)
    assert [(r.outcome, r.status) for r in reports] == [(ACCEPTED, 0x0000)] * 3
    assert [r.sop_instance_uid for r in reports] == [dcmread(p).SOPInstanceUID for p in paths]
    assert pacs.calling == ["ICHTRIAGE"] * 3
    assert [data_set(p) for p in stored] == [data_set(p) for p in paths]


def test_sends_to_dcmtk(tmp_path: Path, paths: list[Path]) -> None:
    with storescp(tmp_path / "dcmtk", ["-B"]) as receiver:  # -B: keeps the bytes as they come
        assert outcomes(scu.send("ICHTRIAGE", destination(receiver.port), paths)) == [ACCEPTED] * 3
        kept = list(receiver.folder.iterdir())
    assert sorted(map(data_set, kept)) == sorted(map(data_set, paths))


def test_sends_to_orthanc(tmp_path: Path, paths: list[Path]) -> None:
    with orthanc(tmp_path / "orthanc") as peer:
        there = destination(peer.port, ae_title=peer.ae_title)
        assert scu.echo("ICHTRIAGE", there).outcome is ACCEPTED
        assert outcomes(scu.send("ICHTRIAGE", there, paths)) == [ACCEPTED] * 3
        known = {peer.get(f"/instances/{i}")["MainDicomTags"]["SOPInstanceUID"] for i in peer.get("/instances")}
        wrong = scu.echo("ICHTRIAGE", destination(peer.port, ae_title="WRONG"))
    assert known == {dcmread(p).SOPInstanceUID for p in paths}
    assert wrong.outcome is REFUSED
    assert "Called AE title not recognised" in wrong.detail


def test_nothing_to_send_opens_nothing() -> None:
    assert scu.send("ICHTRIAGE", destination(free_port()), []) == []


def test_echo(tmp_path: Path) -> None:
    with Pacs(tmp_path) as pacs:
        assert scu.echo("ICHTRIAGE", destination(pacs.port)) == SendReport("", ACCEPTED, 0x0000)
        assert pacs.echoes == 1


@pytest.mark.parametrize(
    ("status", "words"), [(0xB000, "coerced"), (0xB006, "discarded"), (0xB007, "does not match")],
    ids=["B000", "B006", "B007"],
)  # fmt: skip
def test_a_warning_that_says_stored_is_an_acceptance(
    tmp_path: Path, paths: list[Path], status: int, words: str
) -> None:
    with Pacs(tmp_path / "pacs", Manners(statuses=(0x0000, status))) as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
    assert outcomes(reports) == [ACCEPTED] * 3
    assert [r.status for r in reports] == [0x0000, status, 0x0000]
    assert f"stored with warning 0x{status:04X}" in reports[1].detail
    assert words in reports[1].detail


# Refused


@pytest.mark.parametrize(
    ("status", "word"),
    [(0xA700, "failure"), (0xC000, "failure"), (0x0110, "failure"), (0xB001, "warning"), (0x0001, "warning"),
     (0x0107, "warning"), (0x0116, "warning"), (0xFF00, "failure")],
    ids=lambda v: f"{v:04X}" if isinstance(v, int) else v,
)  # fmt: skip
def test_any_status_that_does_not_say_stored_is_told_and_the_others_go_on(
    tmp_path: Path, paths: list[Path], status: int, word: str
) -> None:
    with Pacs(tmp_path / "pacs", Manners(statuses=(0x0000, status))) as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
    assert outcomes(reports) == [ACCEPTED, REFUSED, ACCEPTED]
    assert reports[1].status == status
    assert reports[1].detail == f"{word} status 0x{status:04X}"


def test_a_rejected_association_tells_why(
    tmp_path: Path, paths: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    with Pacs(tmp_path / "pacs", Manners(calling_aets=("KNOWN",))) as pacs:
        reports = [
            *scu.send("ICHTRIAGE", destination(pacs.port), paths),
            scu.echo("ICHTRIAGE", destination(pacs.port)),
        ]
        assert scu.echo("KNOWN", destination(pacs.port)).outcome is ACCEPTED
    assert outcomes(reports) == [REFUSED] * 4
    assert {r.detail for r in reports} == {
        "association rejected: Calling AE title not recognised (Rejected Permanent)"
    }
    assert "pynetdicom.acse" not in {r.name for r in caplog.records}  # it stands in the report


def test_a_class_the_peer_does_not_take_is_refused_and_the_others_go(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs", Manners(contexts=contexts_for(CTImageStorage))) as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
    assert outcomes(reports) == [ACCEPTED, REFUSED, ACCEPTED]
    assert reports[1].detail == (
        "the peer does not take Secondary Capture Image Storage in Explicit VR Little Endian"
    )
    assert reports[1].sop_instance_uid == dcmread(paths[1]).SOPInstanceUID


def test_a_peer_that_takes_none_of_it_refuses(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs", Manners(contexts=contexts_for(Comprehensive3DSRStorage))) as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
    assert outcomes(reports) == [REFUSED] * 3
    assert "does not take CT Image Storage" in reports[0].detail
    assert "does not take Secondary Capture Image Storage" in reports[1].detail


def test_a_peer_with_the_default_transfer_syntax_only_gets_that(tmp_path: Path, paths: list[Path]) -> None:
    only = [build_context(c, ImplicitVRLittleEndian) for c in (CTImageStorage, SecondaryCaptureImageStorage)]
    with Pacs(tmp_path / "pacs", Manners(contexts=only)) as pacs:
        assert outcomes(scu.send("ICHTRIAGE", destination(pacs.port), paths)) == [ACCEPTED] * 3
        stored = pacs.wait_for(3)
    for sent, kept in zip(map(dcmread, paths), map(dcmread, stored), strict=True):
        assert kept.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
        assert kept == sent


def test_compressed_pixels_are_never_sent_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "j2k.dcm"
    write_ct(path)
    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless  # the bytes are no JPEG 2000: nothing may look at them
    data.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x02\x00\x00\x00ab"
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(path)
    with Pacs(tmp_path / "pacs", Manners(contexts=contexts_for(CTImageStorage))) as pacs:
        report, = scu.send("ICHTRIAGE", destination(pacs.port), [path])
        assert report.outcome is REFUSED
        assert pacs.stored == []


def test_a_file_that_is_none_is_refused_and_the_others_go(tmp_path: Path, paths: list[Path]) -> None:
    (tmp_path / "text.dcm").write_text("not DICOM")
    given = [paths[0], tmp_path / "missing.dcm", tmp_path / "text.dcm", paths[2]]
    with Pacs(tmp_path / "pacs") as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), given)
    assert outcomes(reports) == [ACCEPTED, REFUSED, REFUSED, ACCEPTED]
    assert "cannot be read" in reports[1].detail


def test_a_damaged_file_is_refused_and_the_others_go(tmp_path: Path, paths: list[Path]) -> None:
    """Whatever the bytes are: an error that left the sender would have the same object stop it for ever."""
    whole = paths[1].read_bytes()
    end = len(whole) - len(data_set(paths[1]))
    damaged = [whole[:n] for n in range(128, end, 3)]
    damaged += [whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :] for n in range(128, end, 5)]
    files = [tmp_path / f"damaged{n}.dcm" for n in range(len(damaged))]
    for path, content in zip(files, damaged, strict=True):
        path.write_bytes(content)
    with Pacs(tmp_path / "pacs") as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), [*files, paths[0]])
        assert reports[-1].outcome is ACCEPTED
    details = {r.detail for r in reports}
    for what in ("error", "BytesLengthException", "a UID is none"):
        assert f"the file cannot be read ({what})" in details


def test_a_file_cut_off_is_refused_where_it_would_be_converted(tmp_path: Path, paths: list[Path]) -> None:
    (tmp_path / "cut.dcm").write_bytes(paths[0].read_bytes()[:-514])  # in the length of the pixel data
    only = [build_context(CTImageStorage, ImplicitVRLittleEndian)]
    with Pacs(tmp_path / "pacs", Manners(contexts=only)) as pacs:
        reports = scu.send("ICHTRIAGE", destination(pacs.port), [tmp_path / "cut.dcm", paths[0]])
    assert outcomes(reports) == [REFUSED, ACCEPTED]
    assert reports[0].detail == "cannot be sent (error)"


# Unreachable


def test_nobody_listens(paths: list[Path]) -> None:
    port = free_port()
    reports = [*scu.send("ICHTRIAGE", destination(port), paths), scu.echo("ICHTRIAGE", destination(port))]
    assert outcomes(reports) == [UNREACHABLE] * 4
    assert {r.detail for r in reports} == {f"no connection to {HOST}:{port}"}


def test_a_host_without_address(paths: list[Path]) -> None:
    report = scu.echo("ICHTRIAGE", destination(104, host="no-such-host.invalid"))
    assert report.outcome is UNREACHABLE
    assert "no-such-host.invalid" in report.detail


def test_a_host_that_swallows_connections(paths: list[Path]) -> None:
    with socket.socket() as listening, ExitStack() as stack:
        listening.bind((HOST, 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):  # fills its queue: what comes now is dropped, as by a firewall
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        began = time.monotonic()
        reports = scu.send("ICHTRIAGE", destination(address[1], connect_timeout_s=0.5), paths)
        assert time.monotonic() - began < 5.0
    assert outcomes(reports) == [UNREACHABLE] * 3


def test_a_peer_that_never_answers_the_association_request(paths: list[Path]) -> None:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(5)
        began = time.monotonic()
        reports = scu.send("ICHTRIAGE", destination(listening.getsockname()[1], response_timeout_s=0.5), paths)
        assert time.monotonic() - began < 5.0
    assert outcomes(reports) == [UNREACHABLE] * 3
    assert "does not answer the association request" in reports[0].detail


def test_a_peer_that_aborts(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs", Manners(abort_at=1)) as pacs:
        began = time.monotonic()
        reports = scu.send("ICHTRIAGE", destination(pacs.port), paths)
        assert time.monotonic() - began < 10.0  # no time limit was waited for
    assert outcomes(reports) == [ACCEPTED, UNREACHABLE, UNREACHABLE]
    assert [r.status for r in reports] == [0x0000, None, None]
    assert "aborted or lost" in reports[1].detail
    assert "not sent" in reports[2].detail


def test_a_peer_that_hangs_costs_its_timeout_once(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs", Manners(is_hanging=True)) as pacs:
        began = time.monotonic()
        reports = scu.send("ICHTRIAGE", destination(pacs.port, response_timeout_s=0.5), paths)
        assert time.monotonic() - began < 5.0
        pacs.wake.set()
    assert outcomes(reports) == [UNREACHABLE] * 3
    assert reports[0].detail == "no answer within 0.5 s"


def test_a_frozen_peer_that_stops_reading(tmp_path: Path) -> None:
    big = [tmp_path / f"{n}.dcm" for n in range(2)]
    for path in big:
        write_ct(path, size_px=2048)  # 8 MB: more than the system's buffers take
    with storescp(tmp_path / "dcmtk") as receiver, ExitStack() as stack:
        there = destination(receiver.port, response_timeout_s=1.0)
        assert scu.send("ICHTRIAGE", there, big[:1])[0].outcome is ACCEPTED
        stack.callback(receiver.thaw)
        with associate("ICHTRIAGE", there, contexts_for(CTImageStorage)) as line:
            receiver.freeze()
            began = time.monotonic()
            report = judge("", line, lambda: line.association.send_c_store(dcmread(big[1])))
        assert time.monotonic() - began < 10.0
        assert report.outcome is UNREACHABLE
        assert scu.send("ICHTRIAGE", there, big)[0].outcome is UNREACHABLE


def test_a_peer_that_comes_back_is_reached_again(tmp_path: Path, paths: list[Path]) -> None:
    with Pacs(tmp_path / "pacs") as pacs:
        pacs.stop()
        assert outcomes(scu.send("ICHTRIAGE", destination(pacs.port), paths)) == [UNREACHABLE] * 3
        pacs.start()
        assert outcomes(scu.send("ICHTRIAGE", destination(pacs.port), paths)) == [ACCEPTED] * 3
