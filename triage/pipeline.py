"""One study: files -> Result; no queue, network or database.

files -> headers -> selection -> geometry -> pixels -> preprocess -> predict -> Result
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from triage.dicom.headers import CT_CLASSES, read_instance
from triage.dicom.pixels import Decoder, read_slice, read_volume
from triage.dicom.selection import select
from triage.dicom.sources import Sources
from triage.errors import InstanceError, SliceError, StudyError
from triage.nn.pack import Pack
from triage.nn.predict import judge
from triage.records import (
    ActivationMap,
    Instance,
    Outcome,
    Priority,
    Result,
    Selection,
    Slice,
    SliceScore,
    Volume,
)


@dataclass(frozen=True, slots=True)
class Tools:
    """What an analysis works with; made once, used for every study."""

    pack: Pack
    decoder: Decoder
    precision: str = "auto"
    clock: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that is no usable DICOM instance, and why."""

    path: Path
    """Not part of a result: a file's name may be a patient's."""
    reason: str


@dataclass(frozen=True, slots=True)
class StudyInput:
    """The readable instances of one study, and the files that were not."""

    study_uid: str
    instances: tuple[Instance, ...]
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True)
class FileScore:
    """One slice scored by itself."""

    path: Path
    score: SliceScore | None
    reason: str = ""
    """Why there is no score."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """A result with what its report and captures are built from."""

    result: Result
    sources: Sources
    """What its objects refer to: the files of the slices analysed, in order, or of the whole study, and the pixels."""
    chosen: tuple[str, ...] = ()
    """SOP Instance UIDs of the series chosen."""


def read_studies(paths: Sequence[Path]) -> list[StudyInput]:
    """Group files by StudyInstanceUID.

    Args:
        paths: Any files; those that are no DICOM images are told, not raised.

    Returns:
        One entry a study in order of first appearance. Unreadable files are attached to the first study, or to an
        entry with an empty study_uid where no file was readable.
    """
    studies: dict[str, list[Instance]] = {}
    unreadable = []
    for path in paths:
        try:
            instance = read_instance(path)
        except InstanceError as e:
            unreadable.append(Unreadable(path, str(e)))
        else:
            studies.setdefault(instance.study_uid, []).append(instance)
    if not studies:
        return [StudyInput("", (), tuple(unreadable))] if unreadable else []
    inputs = [StudyInput(uid, tuple(instances)) for uid, instances in studies.items()]
    return [replace(inputs[0], unreadable=tuple(unreadable)), *inputs[1:]]


def analyse_study(study: StudyInput, tools: Tools, selection: Selection | None = None) -> Analysis:
    """Judge one study.

    Args:
        study: Its instances.
        tools: Model pack and decoder.
        selection: The series chosen, where the caller has chosen already.

    Returns:
        The result; a study that cannot be judged has the outcome NOT_ANALYSED and the reason, never an exception.
    """
    started_at = tools.clock()
    begin = time.monotonic()
    selection = selection or select(study.instances)
    result = Result(
        study_uid=study.study_uid,
        outcome=Outcome.NOT_ANALYSED,
        priority=Priority.ROUTINE,
        reason=selection.reason,
        model=tools.pack.identity,
        started_at=started_at,
        duration_s=0.0,
        verdicts=selection.verdicts,
    )
    volume: Volume | None = None
    activations: tuple[ActivationMap, ...] = ()
    if selection.stack is not None:
        try:
            volume = read_volume(selection.stack, _paths(selection.instances), tools.decoder)
            result, activations = _judged(result, selection, volume, tools)
        except StudyError as e:
            result = replace(result, reason=str(e), series_uid=selection.series_uid)
    result = replace(result, duration_s=time.monotonic() - begin)
    sources = Sources(_evidence(study, selection, volume), volume, activations=activations)
    chosen = tuple(i.sop_instance_uid for i in selection.instances)
    return Analysis(result, sources, chosen)


def score_slices(study: StudyInput, tools: Tools) -> Iterator[FileScore]:
    """Score every CT slice by itself, without selection, order or averaging; for research, not for triage.

    Args:
        study: Its instances, of any series.
        tools: Model pack and decoder.

    Yields:
        Calibrated probabilities of each slice, or why it has none.
    """
    for unreadable in study.unreadable:
        yield FileScore(unreadable.path, None, unreadable.reason)
    for instance in study.instances:
        if instance.sop_class_uid not in CT_CLASSES or not instance.slices:
            yield FileScore(instance.path, None, "not a CT image")
        for plane in instance.slices if instance.sop_class_uid in CT_CLASSES else ():
            try:
                yield FileScore(instance.path, _score_slice(instance, plane, tools))
            except (SliceError, StudyError) as e:
                yield FileScore(instance.path, None, str(e))


def _score_slice(instance: Instance, plane: Slice, tools: Tools) -> SliceScore:
    hu, repairs = read_slice(instance.path, plane, tools.decoder)
    volume = Volume(
        hu=hu[None],
        slices=(plane,),
        positions_mm=(0.0,),
        spacing_mm=plane.spacing_mm or (1.0, 1.0),
        thickness_mm=plane.thickness_mm or 0.0,
        repairs=repairs,
        lossy=instance.lossy,
    )
    return judge(tools.pack, volume, tools.precision, with_maps=False).slice_scores[0]


def _judged(
    result: Result, selection: Selection, volume: Volume, tools: Tools
) -> tuple[Result, tuple[ActivationMap, ...]]:
    judgement = judge(tools.pack, volume, tools.precision)
    stack = selection.stack
    assert stack is not None
    judged = replace(
        result,
        outcome=judgement.outcome,
        priority=judgement.priority,
        reason="",
        series_uid=selection.series_uid,
        findings=judgement.findings,
        slice_scores=judgement.slice_scores,
        device=judgement.device,
        n_slices=len(volume.slices),
        tilt_deg=volume.tilt_deg,
        spacing_mm=stack.spacing_mm,
        missing=stack.missing,
        set_aside=volume.set_aside,
        repairs=volume.repairs,
        lossy=volume.lossy,
        thresholds=tools.pack.card.all_thresholds(),
    )
    return judged, judgement.activations


def _paths(instances: Sequence[Instance]) -> dict[str, Path]:
    return {i.sop_instance_uid: i.path for i in instances}


def _evidence(study: StudyInput, selection: Selection, volume: Volume | None) -> tuple[Path, ...]:
    """Files in the order of the slices analysed, each once (an Enhanced CT file holds many slices)."""
    paths = _paths(study.instances)
    if volume is not None:
        return tuple(dict.fromkeys(paths[s.sop_instance_uid] for s in volume.slices))
    if selection.instances:
        return tuple(i.path for i in selection.instances)
    return tuple(paths.values())
