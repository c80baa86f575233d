from pathlib import Path

from peers import HOST, write_ct
from pydicom.uid import CTImageStorage

from triage.config import Destination
from triage.net import commitment, scu
from triage.net.commitment import CommitmentAnswer
from triage.net.standin import StandInPacs
from triage.records import SendOutcome


def test_it_keeps_what_it_gets_and_commits_to_what_it_has(tmp_path: Path) -> None:
    image = write_ct(tmp_path / "a.dcm")
    pacs = StandInPacs("STANDIN", tmp_path / "pacs")
    there = Destination(name="pacs", ae_title="STANDIN", host=HOST, port=pacs.start())
    answers: list[CommitmentAnswer] = []

    def keep(answer: CommitmentAnswer) -> bool:
        answers.append(answer)
        return True

    try:
        report, = scu.send("ICHTRIAGE", there, [tmp_path / "a.dcm"])
        assert report.outcome is SendOutcome.ACCEPTED
        references = [(CTImageStorage, str(image.SOPInstanceUID)), (CTImageStorage, "1.2.3")]
        asked = commitment.request("ICHTRIAGE", there, "1.2.4", references, keep)
        assert asked.outcome is SendOutcome.ACCEPTED
    finally:
        pacs.stop()
    assert answers == [CommitmentAnswer("1.2.4", (str(image.SOPInstanceUID),), {"1.2.3": 0x0112})]
    assert pacs.stored == [tmp_path / "pacs" / f"{image.SOPInstanceUID}.dcm"]
