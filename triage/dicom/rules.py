"""Header facts -> why a series is no plain head CT; each rule gives a reason in words, with the value it rests on."""

import re
from collections.abc import Iterable, Sequence

from pydicom.uid import UID

from triage.dicom.descriptions import BONE, DERIVED, HEAD, NON_CONTRAST, OTHER_PART, first_words, says_contrast
from triage.dicom.headers import CT_CLASSES, MULTI_FRAME
from triage.dicom.kernels import is_sharp
from triage.records import Instance

BAD_TYPES = frozenset({
    "LOCALIZER", "SCOUT", "TOPOGRAM", "SCANOGRAM", "REF_SURVIEW", "SURVIEW", "CT_SOM5 TOP", "CT_SOM7 TOP",
    "PATIENT_INFO", "DOSE_INFO", "DOSEINFO", "DOSE", "SECONDARY", "MPR", "CSA MPR", "CSA MIP", "CSA MPR THICK",
    "CPR", "REFORMATTED", "MIP", "MINIP", "MAX_IP", "MIN_IP", "AVERAGE_EX", "VRT", "VOLREN", "VOLUME RENDERED",
    "COMPOSED", "PROJECTION IMAGE", "SCREEN SAVE", "SUBTRACTION", "MONO", "VMI", "MONOENERGETIC", "VIRTUAL_MONO",
    "IODINE", "MATERIAL_REMOVED", "VNC", "EFF_ATOMIC_NUM", "PERFUSION", "DYNAMIC", "ANGIO", "CT_SOM5 MON", "TTP",
    "CBF", "CBV", "MTT", "RCBF", "RCBV", "REGIONAL_CBF", "ENERGY_PROP_WT", "MAXIMUM", "MINIMUM", "STD_DEVIATION",
    "3D",
})  # fmt: skip
"""Values of ImageType (or of an Enhanced CT's FrameType) that no plain axial image has."""

AXIAL_TYPES = frozenset({"AXIAL", "VOLUME"})
"""Some vendors call an iterative reconstruction DERIVED; it still says AXIAL, or VOLUME in Enhanced CT."""

SCAN_OPTIONS = re.compile(
    r"SURVIEW|SCOUT|LOCALIZER|TOPO|TIMING|MONITOR|PERFUSION|DYNAMIC|CONSTANT_ANGLE|STATIONARY", re.I
)
"""ScanOptions, or CTAcquisitionType of Enhanced CT, of scans that are no slices of the head."""

NO_CONTRAST_AGENT = re.compile(r"(none|no|non|nil|n/?a|0|w/?o.*|without.*|ohne.*|bez.*|keine?|-+)\.?", re.I)
"""What is typed into ContrastBolusAgent when none was given."""

HU_TYPES = frozenset({"", "HU", "US", "HU_MOD"})
"""RescaleType of Hounsfield units, or of units not specified (PS3.3 C.11.1.1.2)."""

SHOWN = 48
"""Characters of a value that are shown in a reason."""


def image_faults(*images: Instance) -> tuple[str, ...]:
    """Why images are none of a plain head CT, by their kind.

    Args:
        images: One image, or several of which each is known to be at fault.

    Returns:
        The reasons, each once; none for an image that may be of a plain head CT.
    """
    others = dict.fromkeys(_class_name(i) for i in images if i.sop_class_uid not in CT_CLASSES)
    ct_images = [i for i in images if i.sop_class_uid in CT_CLASSES]
    faults = [f"{name} is no CT image" for name in others]
    faults += [f"Modality is {shown(m)}, not CT" for m in dict.fromkeys(i.modality for i in ct_images) if m != "CT"]
    if not all(i.rows and i.columns and i.has_pixels for i in ct_images):
        faults.append("no image: Rows, Columns or pixel data missing")
    bad = dict.fromkeys(t for i in images for t in i.image_type if t in BAD_TYPES)
    if bad:
        faults.append(f"ImageType says {', '.join(map(shown, bad))}")
    elif derived := next((i for i in images if "DERIVED" in i.image_type and not _is_axial(i)), None):
        faults.append(f"ImageType is {shown(chr(92).join(derived.image_type))}: derived and not axial")
    options = dict.fromkeys(i.scan_options for i in images if SCAN_OPTIONS.search(i.scan_options))
    if options:
        faults.append(f"ScanOptions says {', '.join(map(shown, options))}")
    return tuple(faults)


def _is_axial(instance: Instance) -> bool:
    allowed = AXIAL_TYPES if instance.sop_class_uid in MULTI_FRAME else {"AXIAL"}
    return not allowed.isdisjoint(instance.image_type)


def series_faults(members: Sequence[Instance]) -> tuple[str, ...]:
    """Why a series is none of a plain head CT, by what it says of itself.

    Args:
        members: Its instances, at least one.

    Returns:
        One reason for each rule it fails.
    """
    first = members[0]
    return tuple(
        reason
        for reason in (
            _derived(first),
            *_contrast(members),
            _body(first),
            _kernel(members),
            _units(members),
        )
        if reason
    )


def _derived(first: Instance) -> str:
    word = first_words(DERIVED, first.series_description)
    return f"SeriesDescription {shown(first.series_description)} says {word!r}" if word else ""


def _contrast(members: Sequence[Instance]) -> Iterable[str]:
    agents = [i.contrast_agent for i in members if not _no_agent(i.contrast_agent)]
    if agents:
        yield f"ContrastBolusAgent is {shown(agents[0])}"
    first = members[0]
    if word := says_contrast(first.series_description):
        yield f"SeriesDescription {shown(first.series_description)} says {word!r}: contrast, angiography or perfusion"
    elif not NON_CONTRAST.search(first.series_description) and (word := says_contrast(first.protocol_name)):
        yield f"ProtocolName {shown(first.protocol_name)} says {word!r}: contrast, angiography or perfusion"


def _no_agent(agent: str) -> bool:
    return not agent.strip() or NO_CONTRAST_AGENT.fullmatch(agent.strip()) is not None


def _body(first: Instance) -> str:
    if HEAD.search(first.series_description):
        return ""
    for keyword, value in (("SeriesDescription", first.series_description), ("BodyPartExamined", first.body_part)):
        if OTHER_PART.search(value) and not HEAD.search(value):
            return f"{keyword} is {shown(value)}, not the head"
    texts = (first.body_part, first.protocol_name, first.study_description)
    if any(HEAD.search(t) for t in texts):
        return ""
    said = next((f"{shown(t)}" for t in texts if t), "nothing")
    return f"no sign of a head: BodyPartExamined and the descriptions say {said}"


def _kernel(members: Sequence[Instance]) -> str:
    for instance in members:
        if is_sharp(instance.kernel):
            return f"ConvolutionKernel {shown(instance.kernel)} is a sharp one, for bone or lung"
    first = members[0]
    word = first_words(BONE, first.series_description)
    if word and is_sharp(first.kernel) is None:
        return f"SeriesDescription {shown(first.series_description)} says {word!r}"
    return ""


def _units(members: Sequence[Instance]) -> str:
    units = next((i.rescale_type for i in members if i.rescale_type.upper() not in HU_TYPES), None)
    return f"RescaleType is {shown(units)}, not Hounsfield units" if units else ""


def _class_name(instance: Instance) -> str:
    name = UID(instance.sop_class_uid).name
    return "an unknown SOP class" if name == instance.sop_class_uid else name.removesuffix(" Storage")


def shown(value: str) -> str:
    """A header value as it stands in a reason: quoted and cut."""
    return repr(value if len(value) <= SHOWN else value[: SHOWN - 3] + "...")
