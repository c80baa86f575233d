"""Synthetic head CT with known truth, from one integer seed; no patient anywhere, no DICOM (that is `writer`)."""

from triage.phantom.profile import PROFILES, SHIFTED, USUAL, WIDE, Profile
from triage.phantom.spec import PhantomSpec
from triage.phantom.study import VERSION, PhantomStudy, Truth, generate

__all__ = [
    "PROFILES",
    "SHIFTED",
    "USUAL",
    "VERSION",
    "WIDE",
    "PhantomSpec",
    "PhantomStudy",
    "Profile",
    "Truth",
    "generate",
]
