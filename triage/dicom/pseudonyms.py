"""Who a file belongs to, as salted hashes: the one place that reads PatientID, and no identifier leaves it."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from triage.dicom.reading import integer_of, open_dataset, text_of
from triage.errors import UnreadableInstance

CHARACTERS = 16
"""Of a pseudonym: 64 bits, so that among a million images the chance of any two alike is below one in ten million."""

Kind = Literal["image", "study", "series", "patient"]

KEYWORDS: dict[Kind, str] = {
    "image": "SOPInstanceUID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "patient": "PatientID",
}
"""The element that names each."""


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """Salted hashes of what names one file's image, study, series and patient."""

    image: str
    study: str
    series: str
    patient: str
    """Where no PatientID is stated: one for each study."""
    has_patient: bool
    """Whether PatientID is stated."""
    n_frames: int = 1
    """NumberOfFrames, which names nobody."""


def pseudonym(salt: str, kind: Kind, identifier: str) -> str:
    """A name that only who knows the salt can make again.

    Args:
        salt: Secret where identifiers are a hospital's.
        kind: What is named, so that equal identifiers of different kinds have nothing in common.
        identifier: Spaces around it do not count (PS3.5 6.2: not significant).

    Returns:
        Hexadecimal characters.
    """
    message = f"{kind}\0{identifier.strip()}".encode()
    return hmac.new(salt.encode(), message, hashlib.sha256).hexdigest()[:CHARACTERS]


def read_pseudonyms(path: Path, salt: str) -> Pseudonyms:
    """Read what names a file, hashed.

    Args:
        path: A Part 10 file, or a bare data set; UIDs may be any text.
        salt: See `pseudonym`.

    Returns:
        The pseudonyms.

    Raises:
        UnreadableInstance: The bytes are no DICOM data set, or a UID is missing.
    """
    opened = open_dataset(path, (*KEYWORDS.values(), "NumberOfFrames"))

    def named(kind: Kind, encodings: Sequence[str] = ("ascii",)) -> str:
        identifier = text_of(opened.ds, KEYWORDS[kind], encodings)
        return pseudonym(salt, kind, identifier) if identifier else ""

    def uid(kind: Kind) -> str:
        if not (name := named(kind)):
            raise UnreadableInstance(f"no {KEYWORDS[kind]}" if len(opened.ds) else "no DICOM data set")
        return name

    study, patient = uid("study"), named("patient", opened.encodings)
    return Pseudonyms(
        image=uid("image"),
        study=study,
        series=uid("series"),
        patient=patient or pseudonym(salt, "patient", f"\0{study}"),
        has_patient=bool(patient),
        n_frames=max(1, integer_of(opened.ds, "NumberOfFrames") or 1),
    )
