from datetime import timedelta

import pytest
from pydicom import Dataset
from pydicom.uid import UID

from triage.dicom.equipment import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, analysis_times
from triage.records import ModelIdentity, Outcome, Priority, Result

MODEL = ModelIdentity("m", "1", "ab", "demonstration", "resnet18")
RESULT = Result("1.2", Outcome.NEGATIVE, Priority.ROUTINE, "", MODEL, started_at=1_700_000_000.5, duration_s=3.0)


@pytest.mark.parametrize(("offset", "started"), [("+0000", "20231114221320"), ("-0330", "20231114184320"),
                                                 ("+0545", "20231115035820")])  # fmt: skip
def test_a_source_that_states_its_zone_decides(offset: str, started: str) -> None:
    source = Dataset()
    source.TimezoneOffsetFromUTC = offset
    times = analysis_times(RESULT, source)
    assert times.offset == offset
    assert times.started.strftime("%Y%m%d%H%M%S") == started
    assert times.finished - times.started == timedelta(seconds=3)


def test_else_this_computers_zone_does(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        times = analysis_times(RESULT, Dataset())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert times.offset == "+0530"
    assert times.started.strftime("%H%M%S") == "034320"


def test_implementation_identity_is_ours_and_valid() -> None:
    assert UID(IMPLEMENTATION_CLASS_UID).is_valid
    assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")
    assert int(IMPLEMENTATION_CLASS_UID.removeprefix("2.25.")) < 1 << 128
    assert 0 < len(IMPLEMENTATION_VERSION_NAME) <= 16
