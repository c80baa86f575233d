"""What every message says, whatever its format: an analysis, whose study it is, who says so; formats nothing."""

from dataclasses import dataclass
from datetime import datetime

from triage.dicom import wording
from triage.dicom.documents import certainty
from triage.dicom.identity import StudyIdentity
from triage.records import Finding, Outcome, Priority, Result


@dataclass(frozen=True, slots=True)
class Facts:
    """The content of a message before it has a format; made by `facts_of`."""

    result: Result
    identity: StudyIdentity
    """Only receivers that must match the study get anything of it."""
    study_id: int
    """Our own row id, which names the study without naming the patient."""
    node_name: str
    supersedes: bool
    """An earlier analysis of this study was reported; this one stands in its place."""
    started: datetime
    """When the analysis began; with this computer's offset from UTC."""
    finished: datetime
    """When it ended; likewise."""

    @property
    def is_positive(self) -> bool:
        """Whether a hemorrhage is suspected."""
        return self.result.outcome is Outcome.POSITIVE

    @property
    def abnormal_flag(self) -> str:
        """HL7 table 0078 for what is present: AA for urgent, A for review; never a word that says normal."""
        return "AA" if self.result.priority is Priority.URGENT else "A"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What must stand in every message, one sentence or two a line."""
        demonstration = (wording.DEMONSTRATION_WARNING,) if self.result.model.is_demonstration else ()
        return (*demonstration, wording.DISCLAIMER)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Outcome, warnings and which analysis this is, in words; may quote series numbers and technical reasons."""
        run = wording.run_remark(self.result, self.supersedes)
        return (*wording.outcome_remarks(self.result), *self.warnings, *((run,) if run else ()))


def certainty_percent(finding: Finding) -> float:
    """Say how sure the model is of a finding, as the report does.

    Args:
        finding: One label of a study.

    Returns:
        Percent, to one decimal and never 0 or 100.

    Raises:
        StudyError: The probability is no number from 0 to 1.
    """
    return float(certainty(finding).value)


def facts_of(result: Result, identity: StudyIdentity, study_id: int, node_name: str, supersedes: bool) -> Facts:
    """Put together what every message of one analysis says.

    Args:
        result: The analysis.
        identity: Whose study it is; `StudyIdentity(study_uid)` where no header could be read.
        study_id: Our own row id of the study.
        node_name: Who says so.
        supersedes: Whether an earlier analysis of this study was reported.

    Returns:
        The facts; the same for the same arguments on the same computer.
    """
    started = datetime.fromtimestamp(result.started_at).astimezone()
    finished = datetime.fromtimestamp(result.started_at + result.duration_s).astimezone()
    return Facts(result, identity, study_id, node_name, supersedes, started, finished)
