"""One study -> the slices of a cache, by the selection, order, pixels and framing of the node; writes nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from triage.dicom.geometry import projection_mm
from triage.dicom.headers import read_instance
from triage.dicom.pixels import read_slice, read_volume
from triage.dicom.selection import select
from triage.errors import InstanceError, SliceError, StudyError
from triage.nn.predict import slab_of, slabs_of
from triage.nn.preprocess import Preprocessing, average_thin, framed
from triage.records import FloatArray, Instance, Slice, Stack, Volume
from triage.train.cache import Aside, CachedSlice, Frame
from triage.train.pool import Worker
from triage.train.sources import Image, Truth, Unit


@dataclass(frozen=True, slots=True)
class Making:
    """How slices are made."""

    folder: Path
    """Of the images."""
    frame: Frame
    slab_mm: float
    any_uid: bool
    """Whether UIDs may be any text: RSNA's are "ID_..."."""


@dataclass(frozen=True, slots=True)
class Made:
    """What came of a unit."""

    unit: Unit
    slices: tuple[CachedSlice, ...]
    asides: tuple[Aside, ...]


@dataclass(frozen=True, slots=True)
class _Plane:
    """One slice of an image that has labels of its own."""

    image: Image
    name: str
    instance: Instance
    plane: Slice
    position_mm: float
    """NaN where unknown."""
    hu: FloatArray
    """(rows, columns)"""
    repairs: tuple[str, ...]


def make_slices(job: tuple[Unit, Making], worker: Worker) -> Made:
    """Read, order, average and frame the slices of one study.

    Args:
        job: The study and how.
        worker: Of this process.

    Returns:
        The slices, series by series, caudal to cranial, and what was set aside.
    """
    unit, making = job
    asides: list[Aside] = []
    if unit.truth is not None:
        slices = _study_slices(unit, making, worker, asides)
    else:
        slices = [one for planes in _image_planes(unit, making, worker, asides) for one in _slabs(unit, making, planes)]
    return Made(unit, tuple(slices), tuple(asides))


def _instance(image: Image, making: Making) -> Instance:
    return read_instance(making.folder / image.path, making.any_uid)


def _study_slices(unit: Unit, making: Making, worker: Worker, asides: list[Aside]) -> list[CachedSlice]:
    """The series that the node would analyse, as the node would see it."""
    images: dict[str, Image] = {}
    instances = []
    for image in unit.images:
        try:
            instance = _instance(image, making)
        except InstanceError as e:
            asides.append(Aside(image.name, str(e)))
        else:
            images.setdefault(instance.sop_instance_uid, image)
            instances.append(instance)
    selection = select(instances)
    try:
        if selection.stack is None:
            raise StudyError(selection.reason)
        paths = {uid: making.folder / image.path for uid, image in images.items()}
        volume = read_volume(selection.stack, paths, worker.decoder)
        _check_spacing(selection.stack, making)
    except StudyError as e:
        asides.append(Aside(unit.study, str(e)))
        return []
    asides += [Aside(_frame_name(images[s.sop_instance_uid], s.frame), s.reason) for s in volume.set_aside]
    return list(_volume_slices(unit, making, volume, (selection.instances[0], images)))


def _check_spacing(stack: Stack, making: Making) -> None:
    if making.frame.fov_mm and all(s.spacing_mm is None for s in stack.slices):
        raise StudyError("no valid PixelSpacing, by which images are brought to one scale")


def _volume_slices(
    unit: Unit, making: Making, volume: Volume, source: tuple[Instance, dict[str, Image]]
) -> Iterator[CachedSlice]:
    first, images = source
    assert unit.truth is not None
    hu, members = slabs_of(volume, making.slab_mm)
    for plane, places in zip(_framed(hu, making.frame, volume.spacing_mm), members, strict=True):
        middle = volume.slices[places[len(places) // 2]]
        image = images[middle.sop_instance_uid]
        positions = [volume.positions_mm[k] for k in places]
        yield CachedSlice(
            image=_frame_name(image, middle.frame),
            study=unit.study,
            series=image.series,
            patient=unit.patient,
            position_mm=float(np.mean(positions)),
            spacing_mm=volume.spacing_mm,
            thickness_mm=volume.thickness_mm + positions[-1] - positions[0],
            labels=unit.truth,
            hu=plane,
            manufacturer=first.manufacturer,
            kernel=first.kernel,
            repairs=volume.repairs,
        )


def _image_planes(unit: Unit, making: Making, worker: Worker, asides: list[Aside]) -> list[list[_Plane]]:
    """The slices of images with labels of their own, by series and size, ordered by position.

    Slices at one position are all kept, since each has its labels; those without geometry come last, in file order.
    """
    planes: list[_Plane] = []
    for image in unit.images:
        if worker.is_stopped():
            break
        try:
            instance = _instance(image, making)
        except InstanceError as e:
            asides.append(Aside(image.name, str(e)))
            continue
        if not instance.slices:
            asides.append(Aside(image.name, "no image: Rows is missing"))
        for plane in instance.slices:
            try:
                planes.append(_plane(image, instance, plane, (making, worker)))
            except SliceError as e:
                asides.append(Aside(_frame_name(image, plane.frame), str(e)))
    return _groups(planes)


def _plane(image: Image, instance: Instance, plane: Slice, means: tuple[Making, Worker]) -> _Plane:
    making, worker = means
    if making.frame.fov_mm and plane.spacing_mm is None:
        raise SliceError("no valid PixelSpacing, by which images are brought to one scale")
    try:
        hu, repairs = read_slice(instance.path, plane, worker.decoder)
    except OSError as e:
        raise SliceError(f"the file cannot be read ({e.strerror})") from e
    position = projection_mm(plane)
    name = _frame_name(image, plane.frame)
    return _Plane(image, name, instance, plane, math.nan if position is None else position, hu, repairs)


def _groups(planes: Sequence[_Plane]) -> list[list[_Plane]]:
    """Series after series, each by position; a stable sort keeps the order of files where positions are equal."""

    def place(one: _Plane) -> tuple[str, float]:
        return one.image.series, math.inf if math.isnan(one.position_mm) else one.position_mm

    return [list(group) for _, group in groupby(sorted(planes, key=place), key=lambda one: one.image.series)]


def _slabs(unit: Unit, making: Making, planes: Sequence[_Plane]) -> Iterator[CachedSlice]:
    """The slices of one series, thin ones averaged where that is wanted and can be done."""
    alike = len({(one.hu.shape, one.plane.spacing_mm) for one in planes}) == 1
    positions = [one.position_mm for one in planes]
    thicknesses = [one.plane.thickness_mm for one in planes if one.plane.thickness_mm is not None]
    slab_mm = slab_of(float(np.median(thicknesses)) if thicknesses else 0.0, making.slab_mm)
    if slab_mm > 0 and alike and all(map(math.isfinite, positions)):
        stack = torch.from_numpy(np.stack([one.hu for one in planes]))
        hu, members = average_thin(stack, positions, slab_mm)
        slabs = [([planes[k] for k in places], plane) for places, plane in zip(members, hu, strict=True)]
    else:
        slabs = [([one], torch.from_numpy(one.hu)) for one in planes]
    for members_of_slab, plane in slabs:
        spacing_mm = members_of_slab[0].plane.spacing_mm or (1.0, 1.0)
        yield _slab(unit, members_of_slab, _framed(plane[None], making.frame, spacing_mm)[0])


def _slab(unit: Unit, planes: Sequence[_Plane], hu: npt.NDArray[np.int16]) -> CachedSlice:
    middle = planes[len(planes) // 2]
    thickness_mm = middle.plane.thickness_mm
    span_mm = planes[-1].position_mm - planes[0].position_mm if len(planes) > 1 else 0.0
    truths: list[Truth] = [one.image.truth for one in planes if one.image.truth is not None]
    return CachedSlice(
        image=middle.name,
        study=unit.study,
        series=middle.image.series,
        patient=unit.patient,
        position_mm=float(np.mean([one.position_mm for one in planes])),
        spacing_mm=middle.plane.spacing_mm or (1.0, 1.0),
        thickness_mm=math.nan if thickness_mm is None else thickness_mm + span_mm,
        labels=tuple(any(values) for values in zip(*truths, strict=True)),
        hu=hu,
        manufacturer=middle.instance.manufacturer,
        kernel=middle.instance.kernel,
        repairs=tuple(dict.fromkeys(repair for one in planes for repair in one.repairs)),
    )


def _framed(hu: torch.Tensor, frame: Frame, spacing_mm: tuple[float, float]) -> npt.NDArray[np.int16]:
    """(n, rows, columns) HU as (n, size_px, size_px)."""
    preprocessing = Preprocessing(fov_mm=frame.fov_mm, resize_px=frame.size_px, crop_px=frame.size_px)
    return framed(hu, preprocessing, spacing_mm).numpy().astype(np.int16)


def _frame_name(image: Image, frame: int) -> str:
    return image.name if frame == 1 else f"{image.name}-{frame}"
