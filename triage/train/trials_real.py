"""A pack on real heads: series without a bleed as the node judges them, and bleeds painted into them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from triage.dicom.decoder import Decoder
from triage.dicom.headers import read_instance
from triage.dicom.pixels import read_volume
from triage.dicom.selection import select
from triage.errors import DataError, InstanceError, StudyError
from triage.nn.pack import Pack
from triage.nn.predict import judge
from triage.phantom.study import LABEL_MM2, Truth
from triage.records import ANY, LABELS, SUBTYPES, FloatArray, Instance, Outcome, Volume
from triage.train.assessed import PRECISION, Assessed, assess, is_present
from triage.train.errors_shown import Errors, ErrorShown
from triage.train.trial_records import BANDS_ML, Case, ImplantTrial, NegativeTrial, detections, painted_areas

FIRST_SEED = 800_000_001
"""Of the bleeds painted into real heads."""

DECODE_S = 30.0
"""Time limit for one compressed slice."""

NAME_PARTS = 2
"""Last folders of a path that name a head: series folders of several studies are often called alike."""

OnProgress = Callable[[str, int, int], None]


class Painted(Protocol):
    """A real head with a bleed."""

    @property
    def hu(self) -> npt.NDArray[np.int16]:
        """Of shape (n, rows, columns)."""

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Of shape (n, rows, columns)."""

    @property
    def truth(self) -> Truth:
        """What the bleed is."""


Paint = Callable[[str, tuple[float, float], int], Painted]
"""A subtype, a range of volumes in mL and a seed -> the head with that bleed; ValueError where it has no room."""

Prepare = Callable[[FloatArray, tuple[float, ...], tuple[float, float], float], Paint]
"""(n, rows, columns) HU, positions, spacing and thickness in mm -> what paints; ValueError where it is no head."""


@dataclass(frozen=True, slots=True)
class RealHead:
    """A real series, or why the node would not analyse it."""

    name: str
    volume: Volume | None
    reason: str = ""


def read_heads(folder: Path) -> list[RealHead]:
    """Read a folder on the node's own way: headers, selection, geometry, pixels.

    Args:
        folder: Files of one or several studies, in folders or not.

    Returns:
        A head for each study; what cannot be analysed says why.

    Raises:
        DataError: There is no such folder, or no DICOM image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one that holds the files of a series")
    studies: dict[str, list[Instance]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            instance = read_instance(path)
        except InstanceError:
            continue
        studies.setdefault(instance.study_uid, []).append(instance)
    if not studies:
        raise DataError(f"{folder}: holds no DICOM image")
    name = "/".join(folder.resolve().parts[-NAME_PARTS:])
    several = len(studies) > 1
    with Decoder(DECODE_S) as decoder:
        return [
            _read(f"{name} {k}" if several else name, instances, decoder)
            for k, instances in enumerate(studies.values(), start=1)
        ]


def _read(name: str, instances: list[Instance], decoder: Decoder) -> RealHead:
    selection = select(instances)
    if selection.stack is None:
        return RealHead(name, None, selection.reason)
    try:
        paths = {i.sop_instance_uid: i.path for i in selection.instances}
        return RealHead(name, read_volume(selection.stack, paths, decoder))
    except StudyError as e:
        return RealHead(name, None, str(e))


def negative_trial(pack: Pack, head: RealHead, errors: Errors) -> NegativeTrial:
    """Judge a real series without a bleed as the node does.

    Args:
        pack: What is measured.
        head: The series.
        errors: Collects the worst answers.

    Returns:
        Outcome, priority and the score of every slice.
    """
    if head.volume is None:
        return NegativeTrial(head.name, Outcome.NOT_ANALYSED.value, "", head.reason, np.nan, 0, 0, ())
    try:
        judgement = judge(pack, head.volume, PRECISION, with_maps=False)
    except StudyError as e:
        return NegativeTrial(head.name, Outcome.NOT_ANALYSED.value, "", str(e), np.nan, 0, 0, ())
    scores = tuple(one.p[ANY] for one in judgement.slice_scores)
    for k, one in enumerate(judgement.slice_scores):
        errors.add(ErrorShown("real heads", f"{head.name}, slice {k + 1}", (), one.p), head.volume.hu[k])
    n_above = sum(p >= pack.card.thresholds.review for p in scores)
    first, *others = judgement.findings
    return NegativeTrial(
        head.name, judgement.outcome.value, judgement.priority.name.lower(), "", first.p, len(scores), n_above, scores,
        {f.label: f.p for f in others},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ImplantSet:
    """What is painted into each head."""

    each: int = 3
    """Seeds of each subtype and band of volume."""
    prepare: Prepare | None = None
    """What paints; None: the phantom's own lesion code."""


def implant_trial(
    pack: Pack, head: RealHead, implants: ImplantSet, errors: Errors, on_progress: OnProgress
) -> ImplantTrial:
    """Paint bleeds into a real head and see which are found.

    Args:
        pack: What is measured.
        head: The series.
        implants: What is painted.
        errors: Collects the worst answers.
        on_progress: Told what is done, how much of it, of how much.

    Returns:
        The figures, or why the head cannot take bleeds.
    """
    volume = head.volume
    if volume is None:
        return _impossible(head, head.reason)
    try:
        prepare = implants.prepare or phantom_paint
        paint = prepare(volume.hu, volume.positions_mm, volume.spacing_mm, volume.thickness_mm)
        untouched = assess(pack, volume)
    except (ValueError, StudyError) as e:
        return _impossible(head, str(e))
    jobs = list(_jobs(implants.each))
    cases, no_room = [], 0
    for done, (label, band, seed) in enumerate(jobs):
        on_progress(f"bleeds in {head.name}", done, len(jobs))
        try:
            painted = paint(label, band, seed)
        except ValueError:
            no_room += 1
            continue
        cases.append(_case(pack, (head.name, volume, untouched), (label, seed, painted), errors))
    on_progress(f"bleeds in {head.name}", len(jobs), len(jobs))
    positive = is_present(pack.card, untouched.studies, ANY)
    areas = painted_areas(cases)
    return ImplantTrial(
        head.name, "", untouched.studies[ANY], positive, len(jobs), no_room, detections(cases), areas
    )  # fmt: skip


def phantom_paint(
    hu: FloatArray, positions_mm: tuple[float, ...], spacing_mm: tuple[float, float], thickness_mm: float
) -> Paint:
    """Paint with the phantom's own lesion code; see `Prepare`."""
    from triage.phantom.implant import implant
    from triage.phantom.recipient import recipient

    taken = recipient(hu, positions_mm, spacing_mm, thickness_mm)
    return lambda label, volume_ml, seed: implant(taken, label, volume_ml, seed)


def _impossible(head: RealHead, reason: str) -> ImplantTrial:
    return ImplantTrial(head.name, reason, np.nan, False, 0, 0, ())


def _jobs(each: int) -> Iterator[tuple[str, tuple[float, float], int]]:
    """Every bleed: subtype, range of volumes, seed."""
    seed = FIRST_SEED
    for label in SUBTYPES:
        for band in BANDS_ML:
            for _ in range(each):
                yield label, band, seed
                seed += 1


def _case(pack: Pack, head: tuple[str, Volume, Assessed], made: tuple[str, int, Painted], errors: Errors) -> Case:
    """Score one painted head."""
    name, volume, untouched = head
    label, seed, painted = made
    hu: FloatArray = painted.hu.astype(np.float32)
    said = assess(pack, replace(volume, hu=hu), before=untouched)
    area_mm2 = painted.mask.sum(axis=(1, 2)) * volume.spacing_mm[0] * volume.spacing_mm[1]
    shown = area_mm2 >= LABEL_MM2
    steps = np.gradient(np.array(volume.positions_mm)) if len(volume.positions_mm) > 1 else [volume.thickness_mm]
    volume_ml = float((area_mm2 * steps).sum()) / 1000
    p = said.slices[ANY][shown]
    p_before = untouched.slices[ANY][shown]
    if shown.any():
        k = int(area_mm2.argmax())
        scores = {one: float(said.slices[one][k]) for one in LABELS}
        before = f"{painted.truth.stage}, {volume_ml:.1f} mL in all; untouched {untouched.slices[ANY][k]:.3f}"
        errors.add(ErrorShown("painted bleeds", f"{name} seed {seed}, slice {k + 1}", (label,), scores, before), hu[k])
    review = pack.card.thresholds.review
    return Case(
        label, volume_ml, is_present(pack.card, said.studies, ANY), int(shown.sum()), int((p >= review).sum()),
        painted.truth.stage, int((p_before >= review).sum()), said.studies[ANY] - untouched.studies[ANY],
        float((p - p_before).mean()) if len(p) else np.nan, tuple(p.tolist()), tuple(p_before.tolist()),
    )  # fmt: skip
