"""Bleeds painted into heads that the phantom did not make: as large and dense as asked, in their place, as noisy."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from triage.dicom.geometry import order
from triage.dicom.headers import read_instance
from triage.dicom.pixels import Decoder, read_volume
from triage.phantom import PhantomSpec, generate
from triage.phantom.grids import BoolArray
from triage.phantom.implant import MOST_ML, Implanted, implant
from triage.phantom.recipient import Recipient, recipient
from triage.records import FloatArray

ASKED_ML = {"epidural": 9.0, "intraparenchymal": 8.0, "intraventricular": 3.0, "subarachnoid": 3.0, "subdural": 10.0}


@pytest.fixture(scope="module")
def stranger() -> Recipient:
    """A phantom without a bleed, given as bare voxels."""
    made = generate(12, PhantomSpec(size_px=128, n_slices=22, spacing_mm=6.0, subtypes=(), fov_mm=230))
    return recipient(made.hu.astype(np.float32), made.positions_mm, made.spacing_mm, made.thickness_mm)


@pytest.fixture(scope="module")
def patient(shared_data: Path) -> Recipient:
    instances = [read_instance(path) for path in sorted((shared_data / "ge_head").glob("*.dcm"))]
    stack = order([plane for instance in instances for plane in instance.slices])
    with Decoder(60.0) as decoder:
        volume = read_volume(stack, {i.sop_instance_uid: i.path for i in instances}, decoder)
    return recipient(volume.hu, volume.positions_mm, volume.spacing_mm, volume.thickness_mm)


def near_bone(head: Recipient, mm: float) -> BoolArray:
    bone = ndimage.gaussian_filter(head.hu, (0, 1, 1)) > 95
    away = [ndimage.distance_transform_edt(~plane, sampling=head.frame.spacing_mm) for plane in bone]
    return np.asarray(np.stack(away) <= mm)


def bony(head: Recipient) -> BoolArray:
    """Large pieces of what is as dense as bone: no calcification within the brain."""
    planes = []
    for plane in head.hu:
        names, _ = ndimage.label(plane > 250)
        sizes = np.bincount(names.ravel()) * head.pixel_mm2
        sizes[0] = 0
        planes.append((sizes > 400)[names])
    return np.stack(planes)


def roughness(hu: FloatArray, where: BoolArray) -> float:
    """Noise, by second differences along rows, which see no slopes."""
    bend = hu[..., :-4] - 2 * hu[..., 2:-2] + hu[..., 4:]
    seen = bend[where[..., 2:-2] & where[..., :-4] & where[..., 4:]]
    assert seen.size > 100
    return float(seen[np.abs(seen) < 6 * np.median(np.abs(seen)) + 1].std())


def check(head: Recipient, made: Implanted, label: str) -> None:
    asked = ASKED_ML[label]
    assert made.truth.label == label
    assert made.truth.volume_ml == pytest.approx(asked, rel=0.25)
    held = float((made.mask.sum(axis=(1, 2)) * head.cell_mm).sum()) * head.pixel_mm2 / 1000
    assert made.truth.volume_ml == pytest.approx(held, rel=1e-6)
    inner = made.mask & ~near_bone(head, 3.0)
    assert float(made.hu[inner].mean()) == pytest.approx(made.truth.mean_hu, abs=1.5)
    assert float(head.hu[made.mask].max()) < 250, "no bleed lies on bone"
    outside = (head.hu > 250) & bony(head)
    assert np.array_equal(made.hu[outside], np.rint(head.hu[outside])), "bone is left alone"
    assert made.hu.dtype == np.int16


def test_the_cavity_and_its_fluid_are_found(stranger: Recipient) -> None:
    made = generate(12, PhantomSpec(size_px=128, n_slices=22, spacing_mm=6.0, subtypes=(), fov_mm=230))
    assert stranger.site.head.radii_mm[:2] == pytest.approx(made.head.radii_mm[:2], rel=0.07)
    grid, brain = stranger.site.grid, stranger.brain
    assert 1000 < float((stranger.site.surface.depth > 0).sum()) * grid.voxel_ml < 1800
    assert 2 < float(brain.ventricle.sum()) * grid.voxel_ml < 90
    assert float(brain.csf.sum()) * grid.voxel_ml > 3
    middle = (brain.ventricle * stranger.site.surface.at.x).sum() / brain.ventricle.sum()
    assert abs(float(middle)) < 6


@pytest.mark.parametrize("label", ASKED_ML)
def test_a_bleed_comes_out_as_asked_in_a_phantom(stranger: Recipient, label: str) -> None:
    check(stranger, implant(stranger, label, ASKED_ML[label], 5), label)


@pytest.mark.parametrize("label", ["subarachnoid", "subdural"])
def test_a_bleed_comes_out_as_asked_in_a_real_head(patient: Recipient, label: str) -> None:
    made = implant(patient, label, ASKED_ML[label], 5)
    check(patient, made, label)
    depth = patient.site.surface.depth
    assert {int(i) for i in np.flatnonzero(made.mask.any(axis=(1, 2)))} <= set(np.unique(patient.nearest).tolist())
    assert float((depth > 0).sum()) * patient.site.grid.voxel_ml == pytest.approx(1500, rel=0.15)


def test_blood_is_as_noisy_as_the_brain_beside_it(patient: Recipient) -> None:
    made = implant(patient, "intraparenchymal", 12.0, 102)
    core = np.stack([ndimage.binary_erosion(plane, iterations=2) for plane in made.mask])
    tissue = (patient.hu > 5) & (patient.hu < 55) & ~near_bone(patient, 4.0)
    beside = np.stack([ndimage.binary_dilation(plane, iterations=25) for plane in made.mask]) & tissue & ~made.mask
    ratio = roughness(made.hu.astype(np.float32), core) / roughness(patient.hu, beside)
    assert 0.7 < ratio < 1.3


def test_same_seed_same_bits_and_nothing_far_away_changes(stranger: Recipient) -> None:
    first, again = (implant(stranger, "intraparenchymal", 1.0, 3) for _ in range(2))
    assert np.array_equal(first.hu, again.hu)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.mask, implant(stranger, "intraparenchymal", 1.0, 4).mask)
    changed = first.hu != np.rint(stranger.hu)
    near = ndimage.distance_transform_edt(~first.mask, sampling=(6.0, *stranger.frame.spacing_mm))
    assert float(near[changed].max()) < 20


def test_a_large_bleed_moves_the_brain(stranger: Recipient) -> None:
    made = implant(stranger, "epidural", 45.0, 1)
    changed = (made.hu != np.rint(stranger.hu)) & ~made.mask
    assert changed.sum() > 2 * made.mask.sum()


def test_a_contusion_never_spreads_along_the_bone(stranger: Recipient) -> None:
    truth = implant(stranger, "intraparenchymal", (9.0, 18.0), 800_000_019).truth
    assert truth.volume_ml <= 1.25 * MOST_ML.get(truth.variant, truth.volume_ml)


def test_what_has_no_room_is_refused(stranger: Recipient) -> None:
    with pytest.raises(ValueError, match="no room"):
        implant(stranger, "intraventricular", 900.0, 1)
    with pytest.raises(ValueError, match="unknown subtype"):
        implant(stranger, "any", 1.0, 1)


def test_what_is_no_head_is_refused() -> None:
    empty = np.full((12, 64, 64), -1000, np.float32)
    positions = tuple(5.0 * i for i in range(12))
    with pytest.raises(ValueError, match="no skull"):
        recipient(empty, positions, (3.0, 3.0), 5.0)
    block = empty.copy()
    block[:, 10:50, 10:50] = 900
    with pytest.raises(ValueError, match="no cavity"):
        recipient(block, positions, (3.0, 3.0), 5.0)
    with pytest.raises(ValueError, match="ascend"):
        recipient(empty, positions[::-1], (3.0, 3.0), 5.0)
    with pytest.raises(ValueError, match="at least"):
        recipient(empty[:3], positions[:3], (3.0, 3.0), 5.0)
