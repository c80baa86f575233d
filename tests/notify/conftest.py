"""Facts of every outcome, from real files, and a certificate."""

from collections.abc import Callable
from pathlib import Path

import pytest
from dicom.results_data import VALIDATED, Change, ct_series, make_result, make_volume, negative, not_analysed, set_to
from message_peers import Certificate, make_certificate

from triage.dicom.identity import study_identity
from triage.notify.facts import Facts, facts_of
from triage.records import Priority, Result, Volume

STUDY_ID = 4711
NODE = "node-07"

MakeFacts = Callable[..., Facts]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return make_volume(ct_series(tmp_path_factory.mktemp("volume")))


@pytest.fixture
def facts(tmp_path: Path, volume: Volume) -> MakeFacts:
    """Facts of a result, urgent unless another is given, about a study whose headers went through the changes."""

    def make(*changes: Change, result: Result | None = None, supersedes: bool = False) -> Facts:
        paths = ct_series(tmp_path / f"study-{len(list(tmp_path.iterdir()))}", *changes, n=1)
        return facts_of(result or make_result(volume), study_identity(paths), STUDY_ID, NODE, supersedes)

    return make


@pytest.fixture
def outcomes(facts: MakeFacts, volume: Volume) -> dict[str, Facts]:
    """Facts by kind of outcome."""
    review = {"priority": Priority.REVIEW}
    return {
        "urgent": facts(result=make_result(volume, ("epidural", "intraventricular", "subdural"))),
        "review": facts(result=make_result(volume, ("subarachnoid",), **review)),
        "negative": facts(result=negative(volume)),
        "not analysed": facts(result=not_analysed()),
        "superseding": facts(result=negative(volume, run=2), supersedes=True),
        "not analysed any more": facts(result=not_analysed(run=2), supersedes=True),
        "validated": facts(result=make_result(volume, model=VALIDATED)),
        "without anything": facts(*(set_to(k, "") for k in ("PatientID", "PatientName", "AccessionNumber", "StudyDate",
                                                            "StudyTime", "PatientBirthDate", "PatientSex"))),
    }  # fmt: skip


OUTCOMES = ("urgent", "review", "negative", "not analysed", "superseding", "not analysed any more", "validated",
            "without anything")  # fmt: skip
