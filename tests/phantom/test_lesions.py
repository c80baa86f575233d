"""Each kind of bleed lies where it may, has the density it should and moves the brain."""

import csv
from pathlib import Path

import numpy as np
import pytest

from triage.phantom import PhantomSpec, PhantomStudy, generate
from triage.phantom import lesions as bleeds
from triage.phantom.anatomy import STILL, Deformation, deformed
from triage.phantom.fields import Coordinates, Grid, coordinates
from triage.phantom.lesions import Plan
from triage.phantom.profile import USUAL, Head, draw_head
from triage.phantom.skull import Surface, surface
from triage.records import SUBTYPES, FloatArray

BHSD = Path(__file__).parents[2].parent / "shared" / "data" / "lesions" / "BHSD_hemorrhage_characteristics.csv"
BHSD_NAMES = {"EDH": "epidural", "IPH": "intraparenchymal", "IVH": "intraventricular", "SAH": "subarachnoid",
              "SDH": "subdural"}  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.fixture(scope="module")
def site() -> tuple[Head, Grid, Surface]:
    head = draw_head(rng(), USUAL)
    grid = Grid((26, 120, 120), (5.0, 1.8, 1.8), 5.0, np.array([[0, 0, 1.8], [0, 1.8, 0], [5.0, 0, 0]]),
                np.array([0.0, 0.0, 15.0]))  # fmt: skip
    return head, grid, surface(head, grid, coordinates(grid), rng(2))


def plan(label: str, variant: str, side: float = 1.0, volume_ml: float = 25.0) -> Plan:
    return Plan(label, variant, volume_ml, 55.0, side)


def inside(distance: FloatArray, site: tuple[Head, Grid, Surface]) -> Coordinates:
    """Coordinates of the voxels of a bleed."""
    within = (distance > 0) & (site[2].depth > 0)
    assert within.sum() > 20
    at = site[2].at
    return Coordinates(at.x[within], at.y[within], at.z[within])


@pytest.mark.parametrize("variant", ["convexity", "interhemispheric", "tentorial"])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_subdural_never_crosses_the_midline(site: tuple[Head, Grid, Surface], variant: str, side: float) -> None:
    for seed in range(3):
        where = inside(bleeds.subdural(*site, plan("subdural", variant, side), rng(seed)), site)
        assert (where.x * side > 0).all()


def test_subdural_crosses_the_coronal_suture_and_epidural_does_not(site: tuple[Head, Grid, Surface]) -> None:
    coronal = bleeds.CORONAL * site[0].radii_mm[1]
    crescent = inside(bleeds.subdural(*site, plan("subdural", "convexity", volume_ml=60), rng(3)), site)
    assert (crescent.y < coronal).any()
    assert (crescent.y > coronal).any()
    for seed in range(4):
        assert (inside(bleeds.epidural(*site, plan("epidural", "frontal"), rng(seed)), site).y < coronal).all()
        assert (inside(bleeds.epidural(*site, plan("epidural", "parietal"), rng(seed)), site).y > coronal).all()


def test_epidural_is_rounder_than_subdural(site: tuple[Head, Grid, Surface]) -> None:
    """Chord squared over area in the slice that shows it best: about 4 to 7 against 10 and more."""

    def slenderness(distance: FloatArray) -> float:
        mask = (distance > 0) & (site[2].depth > 0)
        k = int(mask.sum(axis=(1, 2)).argmax())
        points = np.argwhere(mask[k]) * 1.8
        chord2 = max(((points - p) ** 2).sum(axis=1).max() for p in points)
        return float(chord2 / (mask[k].sum() * 1.8**2))

    lens = np.median([slenderness(bleeds.epidural(*site, plan("epidural", "temporal"), rng(s))) for s in range(5)])
    crescent = np.median([slenderness(bleeds.subdural(*site, plan("subdural", "convexity"), rng(s))) for s in range(5)])
    assert lens < 8 < crescent


def test_intraparenchymal_stays_in_the_brain(site: tuple[Head, Grid, Surface]) -> None:
    distance, change = bleeds.intraparenchymal(*site, plan("intraparenchymal", "lobar", -1.0), rng(4))
    within = distance > 0
    assert (site[2].depth[within] > 2.5).all()
    assert (site[2].at.x[within] < 0).all()
    assert change.push_mm > 0
    assert change.shift_mm > 0  # away from the bleed's side


def test_mass_effect_moves_the_midline_and_nothing_else_moves_it(site: tuple[Head, Grid, Surface]) -> None:
    head, grid, s = site
    still = deformed(head, grid, s, STILL, rng(5))
    moved = deformed(head, grid, s, Deformation(0.0, 8.0, (0.0, 0.0, 0.0), 0.0), rng(5))
    at_centre = (np.abs(s.at.x) < 3) & (np.abs(s.at.y) < 10) & (np.abs(s.at.z - 10) < 6)
    assert (still.x - moved.x)[at_centre] == pytest.approx(8.0, abs=1.5)
    assert np.abs((still.x - moved.x)[np.abs(s.vault) < 1]).max() < 0.1


def test_large_bleed_shifts_the_ventricles() -> None:
    def ventricles(subtypes: tuple[str, ...]) -> float:
        """Mean column of the dark middle of the brain."""
        study = generate(23, PhantomSpec(size_px=128, subtypes=subtypes, volume_ml=(90, 100)))
        block = study.hu[15:19, 40:88, 48:80].astype(float)
        dark = np.clip(24 - block, 0, 15)
        return float((dark.sum(axis=(0, 1)) * np.arange(dark.shape[2])).sum() / dark.sum())

    study = generate(23, PhantomSpec(size_px=128, subtypes=("epidural",), volume_ml=(90, 100)))
    bleed_at = float(np.argwhere(study.masks["epidural"]).mean(axis=0)[2]) - 63.5
    shift = ventricles(("epidural",)) - ventricles(())
    assert shift * bleed_at < 0
    assert abs(shift) > 0.7


def test_layered_ventricular_blood_is_dependent() -> None:
    for seed in range(6):
        study = generate(seed, PhantomSpec(size_px=128, subtypes=("intraventricular",), volume_ml=(3, 4)))
        if study.truths[0].variant == "layered":
            rows = np.argwhere(study.masks["intraventricular"])[:, 1]
            assert rows.mean() > 68  # behind the middle of the image: the patient lies on the back
            return
    pytest.fail("no layered bleed in six seeds")


def test_chronic_subdural_is_dark() -> None:
    drawn = [bleeds.draw_plan("subdural", rng(seed), None, 0.1) for seed in range(300)]
    chronic = [p for p in drawn if p.chronic]
    assert 10 < len(chronic) < 60
    assert max(p.mean_hu for p in chronic) <= 32


def test_measured_density_is_what_was_drawn() -> None:
    for label in SUBTYPES:
        study = generate(31, PhantomSpec(size_px=192, subtypes=(label,), volume_ml=(10, 14)))
        truth = study.truths[0]
        mask = study.masks[label]
        noisy = (study.hu[mask].mean() - study.scanner.offset_hu) / study.scanner.gain
        low, high = bleeds.MEAN_HU[label][2:]
        assert low - 3 <= truth.mean_hu <= high + 3
        assert abs(noisy - truth.mean_hu) < (12 if label in ("epidural", "subdural") else 3)  # bone shines in


def measured(n: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {label: [] for label in SUBTYPES}
    for seed in range(9000, 9000 + n):
        label = SUBTYPES[seed % 5]
        study: PhantomStudy = generate(seed, PhantomSpec(size_px=88, n_slices=26, spacing_mm=6, subtypes=(label,)))
        found[label] += [t.mean_hu for t in study.truths if np.isfinite(t.mean_hu)]
    return found


def test_densities_follow_the_measured_distribution() -> None:
    if not BHSD.is_file():
        pytest.skip(f"{BHSD.name} is not there: shared data missing")
    real: dict[str, list[float]] = {label: [] for label in SUBTYPES}
    with BHSD.open() as lines:
        for row in csv.DictReader(lines):
            if float(row["Volume_[mL]"]) > 0.1:
                real[BHSD_NAMES[row["Type"]]].append(float(row["Mean_HU"]))
    ours = measured(110)
    for label in SUBTYPES:
        assert len(ours[label]) >= 16
        assert np.median(ours[label]) == pytest.approx(np.median(real[label]), abs=6), label
        assert np.std(ours[label]) == pytest.approx(np.std(real[label]), abs=4.5), label
