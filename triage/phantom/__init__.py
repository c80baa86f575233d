"""Synthetic head CT with known truth, from one integer seed; no patient anywhere, no DICOM (that is `writer`)."""

from triage.phantom.profile import SHIFTED, USUAL, Profile
from triage.phantom.study import VERSION, PhantomSpec, PhantomStudy, Truth, generate

__all__ = ["SHIFTED", "USUAL", "VERSION", "PhantomSpec", "PhantomStudy", "Profile", "Truth", "generate"]
