"""Kernels of the vendors whose names are known."""

import pytest

from triage.dicom.kernels import is_sharp

SHARP = [
    "BONE", "BONEPLUS", "EDGE", "LUNG", "DETAIL", "H60s", "H70h", "Hr68", "Br59", "B70f", "J70h", "YA", "YE", "D",
    "E", "FC30", "FC39", "FC51", "FC81",
]  # fmt: skip
SOFT = [
    "STANDARD", "STD+", "SOFT", "H31s", "H30f", "Hr38", "Hc40", "J40f", "Qr40", "B30s", "UA", "UB", "UC", "A", "B",
    "C", "FC21", "FC26", "FC64", " ub ",
]  # fmt: skip


@pytest.mark.parametrize("kernel", SHARP)
def test_sharp(kernel: str) -> None:
    assert is_sharp(kernel) is True


@pytest.mark.parametrize("kernel", SOFT)
def test_soft(kernel: str) -> None:
    assert is_sharp(kernel) is False


@pytest.mark.parametrize("kernel", ["", " ", "11", "XR7", "H", "NONE"])
def test_unknown(kernel: str) -> None:
    assert is_sharp(kernel) is None
