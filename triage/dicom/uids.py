"""Deterministic UIDs for results: the same analysis always gets the same ones; invents none at random."""

import uuid

RESULT_NAMESPACE = uuid.UUID("c5c0b4a7-52e0-4b9f-9a4e-6c6f0f4a7d11")
"""Namespace of result UIDs (RFC 9562 5.5); must never change, or a resent result becomes a second one."""

DEVICE_NAMESPACE = uuid.UUID("0e1d2f0b-8e0c-4d6a-b1c3-5a0f3f0d9b27")
"""Namespace of device UIDs."""


def result_uid(study_uid: str, series_uid: str, model_sha256: str, run: int, role: str) -> str:
    """Make the UID of one object or series of one analysis.

    Args:
        study_uid: StudyInstanceUID of the study analysed.
        series_uid: SeriesInstanceUID of the series analysed; empty where none was.
        model_sha256: Of the model pack.
        run: Number of the analysis of this study.
        role: What the UID is for, such as "sr", "sr-series" or "capture-1".

    Returns:
        A UID under 2.25 from a UUID of version 5 (PS3.5 B.2), at most 44 characters.
    """
    return _uid(RESULT_NAMESPACE, "\n".join((study_uid, series_uid, model_sha256, str(run), role)))


def device_uid(model_sha256: str) -> str:
    """Make the Device UID of one model pack; another pack is another device (IHE AI Results 6.5.3).

    Args:
        model_sha256: Of the model pack.

    Returns:
        A UID under 2.25.
    """
    return _uid(DEVICE_NAMESPACE, model_sha256)


def _uid(namespace: uuid.UUID, name: str) -> str:
    return f"2.25.{uuid.uuid5(namespace, name).int}"
