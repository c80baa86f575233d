"""Reconstruction kernel -> soft, sharp or unknown; knows vendors' names, nothing else.

A sharp kernel (for bone or lung) multiplies the noise of the brain, which a network takes for bleeds.
"""

import re

SIEMENS_SHARP = 55
"""Siemens numbers its kernels by sharpness: H31s and Hr40 are for brain, H60s and Hr68 for bone."""

CANON_SHARP = ((30, 39), (50, 59), (80, 86))
"""FC numbers of Canon (Toshiba) kernels for bone and lung."""

SIEMENS = re.compile(r"(?:[HBTUDJIRQSF][A-Z]{0,2})(\d{2})[A-Z]?\b")
"""A family of one to three letters, two digits, speed: B30s, H31s, J40f, Hr38, Qr40, Br59."""

CANON = re.compile(r"FC ?(\d{2})\b")

PHILIPS_SHARP = re.compile(r"Y[A-E]|E|D|L")
PHILIPS_SOFT = re.compile(r"U[A-C]|A|B|C|EB|EC|SA|SB|SC")
"""Philips: one or two letters and nothing else; U is for brain (UA to UC), Y for bone (YA to YE)."""

SHARP_NAME = re.compile(r"BONE|EDGE|ULTRA|LUNG|DETAIL|SHARP|KNOCHEN|INNER ?EAR")
SOFT_NAME = re.compile(r"STAND|STND|STD|SOFT|SMOOTH|BRAIN|CEREBRUM")
"""GE (STANDARD, SOFT, STD+; BONE, BONEPLUS, EDGE, LUNG, DETAIL) and whoever uses plain words."""


def is_sharp(kernel: str) -> bool | None:
    """Whether a kernel is a sharp one.

    Args:
        kernel: First value of ConvolutionKernel (0018,1210).

    Returns:
        True for bone and lung kernels, False for soft ones, None for empty or unknown ones.
    """
    name = kernel.upper().strip()
    if not name:
        return None
    if SHARP_NAME.search(name):
        return True
    if SOFT_NAME.search(name):
        return False
    if match := CANON.match(name):
        number = int(match.group(1))
        return any(low <= number <= high for low, high in CANON_SHARP)
    if match := SIEMENS.match(name):
        return int(match.group(1)) >= SIEMENS_SHARP
    if PHILIPS_SHARP.fullmatch(name):
        return True
    return False if PHILIPS_SOFT.fullmatch(name) else None
