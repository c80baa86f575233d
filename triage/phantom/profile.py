"""What varies from head to head, and how far; draws one head from a seed, computes no voxel."""

from dataclasses import dataclass

import numpy as np

Range = tuple[float, float]
"""Least and greatest; drawn evenly between."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Ranges that heads and scanners are drawn from; widen one to randomise a domain, replace all to shift it."""

    name: str = "usual"
    age: Range = (18, 92)
    """Years; drives atrophy, ventricles, calcification, white matter disease."""
    size: Range = (0.93, 1.07)
    aspect: Range = (0.95, 1.05)
    skull_mm: Range = (3.8, 7.8)
    scalp_mm: Range = (3.5, 8.0)
    white_hu: Range = (24.0, 30.0)
    contrast_hu: Range = (5.0, 10.0)
    """Grey minus white matter."""
    csf_hu: Range = (3.0, 11.0)
    bone_hu: Range = (950.0, 1500.0)
    blood_hu: Range = (40.0, 58.0)
    """Of flowing blood in the dural sinuses, by haematocrit."""
    bumps_mm: Range = (0.6, 2.4)
    """Irregularity of the skull's outline, a standard deviation."""
    ventricles: Range = (0.8, 1.25)
    """Widths of the ventricles against those usual at the head's atrophy."""
    asymmetry: Range = (-0.16, 0.16)
    """Relative difference of the lateral ventricles."""
    dura_mm: Range = (0.7, 1.3)
    """Thickness of falx and tentorium."""
    arteries: Range = (0.5, 1.0)
    """How much of the circle of Willis is seen; (0, 0): nothing."""
    air: Range = (0.5, 1.15)
    """Size of the air spaces of sphenoid, forehead and mastoids; (0, 0): none. Nose and ethmoid always hold air."""
    bend_mm: Range = (0.5, 2.0)
    """Irregularity of the skull base, a standard deviation."""
    sulcus_mm: Range = (2.6, 3.4)
    """Smoothing length of the random field whose zero surfaces are the sulci: gyri are about four times as wide."""
    turn_deg: float = 7.0
    """Greatest turn of the head about the axes up (z) and front to back (y)."""
    nod_deg: Range = (-15.0, 15.0)
    """Of the head about the axis from side to side: what gantry tilt and the lie of the head leave between slices and
    the skull base."""
    off_centre_mm: float = 9.0
    fov_mm: Range = (215.0, 250.0)
    noise_hu: Range = (2.0, 5.5)
    """Standard deviation at 5 mm."""
    blur_mm: Range = (0.40, 0.85)
    """Standard deviation of the in-plane point spread: sharp to soft kernels."""
    sharpness: Range = (0.2, 0.9)
    """Share of low frequencies taken out of the noise."""
    cupping_hu: Range = (1.0, 9.0)
    """How much brighter brain is beside 4 mm of bone; twice under 8 mm."""
    band_mm: Range = (9.0, 22.0)
    """Depth below the bone where half of that is left."""
    streak_hu: Range = (3.0, 16.0)
    offset_hu: Range = (-2.5, 2.5)
    gain: Range = (0.98, 1.02)
    spacing_mm: Range = (3.0, 7.5)
    """Of slices, where the spec leaves it open."""
    tilt_deg: Range = (-20.0, 20.0)
    """Of the gantry, likewise."""
    p_calcified: float = 0.6
    """Of choroid plexus and pineal in the old; less in the young."""
    p_falx_calcified: float = 0.25
    """Of the old."""
    p_ganglia_calcified: float = 0.1
    """Of the old."""
    p_cavum: float = 0.08
    """Cavum septi pellucidi."""
    p_infarct: float = 0.08
    """Old infarct."""
    p_white_disease: float = 0.5
    p_oedema: float = 0.05
    """Low density without a bleed: fresh infarct, or oedema round nothing that is seen."""
    p_tumour: float = 0.05
    """Tumour-like mass, no bleed."""
    p_headrest: float = 0.9
    p_hair: float = 0.6
    p_tube: float = 0.15
    """Tubes, lines and electrodes outside the head."""
    p_clip: float = 0.03
    """Aneurysm clip or coil, with its streaks."""
    p_shunt: float = 0.03
    """Ventricular catheter."""
    p_craniotomy: float = 0.05
    """Bone flap, with plates, or a gap."""
    p_motion: float = 0.08
    """Head moved during the scan."""
    p_measured: float = 0.45
    """Of a bleed whose volume comes from BHSD's table, where most are small."""
    p_more: float = 0.25
    """More bleeds of one subtype in a head."""
    p_pair: float = 0.25
    """A second subtype that often comes with the first, where the bleeds are left open."""
    p_breakthrough: float = 0.6
    """Of a deep bleed beside the ventricle that blood is in too."""
    p_hyperacute: float = 0.12
    """Blood that has clotted only in parts."""
    p_isodense: float = 0.07
    """Of a subdural as dense as cortex."""
    p_chronic: float = 0.1
    """Of a dark subdural."""
    p_acute_on_chronic: float = 0.07
    p_fluid_level: float = 0.07
    p_membranes: float = 0.4
    """Of chronic subdurals."""
    p_ears: float = 0.9
    """Ears that stand away from the head."""
    p_scalp_swelling: float = 0.1
    """Blood or oedema between skull and skin."""
    p_round_field: float = 0.35
    """Of an image reconstructed within a circle, its corners padding."""
    mass_effect: float = 1.0
    """Scale of what bleeds shift and push; 0: nothing moves."""
    petrous: float = 1.0
    """Size of the petrous pyramids; 0: none, and no streaks between them."""
    orbits: bool = True


USUAL = Profile()
"""Heads and scanners as they come to a hospital."""

SHIFTED = Profile(
    name="shifted", age=(30, 97), size=(0.90, 1.10), aspect=(0.91, 1.09), skull_mm=(3.5, 10.0), contrast_hu=(4.0, 8.0),
    white_hu=(22.0, 32.0), turn_deg=10.0, fov_mm=(200.0, 270.0), noise_hu=(3.5, 7.5), blur_mm=(0.35, 1.1),
    sharpness=(0.0, 1.0), cupping_hu=(0.0, 10.0), streak_hu=(6.0, 25.0), offset_hu=(-4.0, 4.0), gain=(0.96, 1.04),
    p_infarct=0.15, bumps_mm=(1.5, 4.0), sulcus_mm=(3.6, 4.4), nod_deg=(-25.0, 25.0), p_motion=0.2,
)  # fmt: skip
"""Anatomy and noise for tests of what a model trained on USUAL or WIDE has never seen: its gyri are wider than any of
theirs."""

WIDE = Profile(
    name="wide", age=(15, 97), size=(0.86, 1.12), aspect=(0.90, 1.10), skull_mm=(3.0, 10.0), scalp_mm=(2.5, 11.0),
    white_hu=(20.0, 34.0), contrast_hu=(3.0, 11.0), csf_hu=(0.0, 14.0), bone_hu=(800.0, 1800.0), blood_hu=(36.0, 66.0),
    bumps_mm=(0.3, 4.0), bend_mm=(0.3, 3.5),
    sulcus_mm=(2.2, 3.5), ventricles=(0.6, 1.6), asymmetry=(-0.35, 0.35), dura_mm=(0.4, 2.2),
    arteries=(0.0, 1.3), air=(0.0, 1.25), turn_deg=15.0, nod_deg=(-25.0, 25.0), off_centre_mm=15.0,
    fov_mm=(180.0, 300.0), noise_hu=(0.8, 7.0), blur_mm=(0.3, 1.3), sharpness=(0.0, 1.0), cupping_hu=(0.0, 14.0),
    band_mm=(7.0, 26.0), streak_hu=(0.0, 25.0), offset_hu=(-5.0, 5.0), gain=(0.95, 1.05),
    spacing_mm=(2.5, 10.0), tilt_deg=(-25.0, 25.0),
    p_falx_calcified=0.35, p_ganglia_calcified=0.15, p_cavum=0.12, p_infarct=0.15, p_white_disease=0.6, p_oedema=0.12,
    p_tumour=0.12, p_measured=0.3, p_hair=0.7,
    p_tube=0.3, p_clip=0.08, p_shunt=0.07, p_craniotomy=0.1, p_motion=0.15,
    p_more=0.35, p_hyperacute=0.2, p_fluid_level=0.12,
    p_scalp_swelling=0.2,
)  # fmt: skip
"""Variety beyond reality, to train on (domain randomisation, Tobin 2017): no cue that only a phantom has may help."""

PROFILES = {profile.name: profile for profile in (USUAL, SHIFTED, WIDE)}
"""By name."""


@dataclass(frozen=True, slots=True)
class Head:
    """One head and how it lay in the scanner."""

    age: float
    atrophy: float
    """0 (full sulci of youth) .. 1."""
    ventricles: float
    """Scale of the ventricles' widths."""
    asymmetry: float
    """Relative difference of the lateral ventricles."""
    cavum_mm: float
    """Width of a cavum septi pellucidi; 0 for none."""
    radii_mm: tuple[float, float, float]
    """Half axes of the inner table: side, front to back, up."""
    skull_mm: float
    scalp_mm: float
    bumps_mm: float
    """Irregularity of the skull's outline."""
    bend_mm: float
    """Irregularity of the skull base."""
    roundness: float
    """2: seen from above the head is an ellipse; less: a box with rounded corners."""
    taper: float
    """How much wider the head is behind than in front."""
    sulcus_mm: float
    """Smoothing length of the field of sulci."""
    skew: float
    """Plagiocephaly: x moved by this share of y."""
    turn_deg: tuple[float, float, float]
    """About x, y, z."""
    off_centre_mm: tuple[float, float]
    white_hu: float
    grey_hu: float
    csf_hu: float
    bone_hu: float
    blood_hu: float
    diploe: float
    """How much less dense the diploe is than the tables, 0..1."""
    dura_mm: float
    """Thickness of falx and tentorium."""
    arteries: float
    """How much of the circle of Willis is seen, 0..1 and more."""
    air: float
    """Size of the air spaces of sphenoid, forehead and mastoids against large ones."""
    falx_bend_mm: float
    """How far the falx bows to one side."""
    choroid: float
    """Radius of the choroid plexus calcification in mm; 0 for none."""
    pineal: float
    falx_calcified: bool
    ganglia_calcified: bool
    mass_effect: float = 1.0
    """Scale of what bleeds shift and push."""
    petrous: float = 1.0
    """Size of the petrous pyramids; 0: none."""
    orbits: bool = True


@dataclass(frozen=True, slots=True)
class Scanner:
    """One acquisition."""

    fov_mm: float
    noise_hu: float
    blur_mm: float
    sharpness: float
    cupping_hu: float
    band_mm: float
    streak_hu: float
    offset_hu: float
    gain: float
    headrest: bool
    motion_mm: float
    """How far the head moved during the scan; 0: it lay still."""


def _in(rng: np.random.Generator, between: Range) -> float:
    """A value within a range."""
    return float(rng.uniform(*between))


def _if(rng: np.random.Generator, p: float, between: Range) -> float:
    """A value with probability p, else 0; draws as much either way, so a switch leaves all other draws alone."""
    value, chance = _in(rng, between), rng.random()
    return value if chance < p else 0.0


def draw_head(rng: np.random.Generator, profile: Profile) -> Head:
    """One head.

    Args:
        rng: Source of chance.
        profile: Ranges.

    Returns:
        Its parameters.
    """
    age = _in(rng, profile.age)
    old = float(np.clip((age - 30) / 60, 0, 1))
    atrophy = float(np.clip(old * rng.uniform(0.4, 1.15) + rng.normal(0, 0.08), 0.02, 1))
    size, aspect = _in(rng, profile.size), _in(rng, profile.aspect)
    white = _in(rng, profile.white_hu) - 2 * old
    turn, away = profile.turn_deg, profile.off_centre_mm
    calcified = profile.p_calcified * (0.3 + 0.9 * old)
    return Head(
        age=age,
        atrophy=atrophy,
        ventricles=float(np.clip((0.72 + 0.75 * atrophy) * _in(rng, profile.ventricles), 0.4, 2.0)),
        asymmetry=_in(rng, profile.asymmetry),
        cavum_mm=_if(rng, profile.p_cavum, (1.5, 4.0)),
        radii_mm=(67 * size * aspect, 84 * size / aspect, 76 * size * float(rng.uniform(0.97, 1.03))),
        skull_mm=_in(rng, profile.skull_mm),
        scalp_mm=_in(rng, profile.scalp_mm),
        bumps_mm=_in(rng, profile.bumps_mm),
        bend_mm=_in(rng, profile.bend_mm),
        roundness=_in(rng, (1.3, 2.0)),
        taper=_in(rng, (0.02, 0.13)),
        sulcus_mm=_in(rng, profile.sulcus_mm),
        skew=float(rng.normal(0, 0.012)),
        turn_deg=(_in(rng, profile.nod_deg), _in(rng, (-0.6 * turn, 0.6 * turn)), _in(rng, (-turn, turn))),
        off_centre_mm=(float(rng.uniform(-away, away)), float(rng.uniform(-away, away))),
        white_hu=white,
        grey_hu=white + _in(rng, profile.contrast_hu),
        csf_hu=_in(rng, profile.csf_hu),
        bone_hu=_in(rng, profile.bone_hu),
        blood_hu=_in(rng, profile.blood_hu),
        diploe=float(rng.uniform(0.15, 0.5)),
        dura_mm=_in(rng, profile.dura_mm),
        arteries=_in(rng, profile.arteries),
        air=_in(rng, profile.air),
        falx_bend_mm=float(rng.normal(0, 0.8)),
        choroid=_if(rng, calcified, (1.2, 3.5)),
        pineal=_if(rng, calcified, (1.0, 2.8)),
        falx_calcified=bool(rng.random() < profile.p_falx_calcified * (old + 0.1)),
        ganglia_calcified=bool(rng.random() < profile.p_ganglia_calcified * old),
        mass_effect=profile.mass_effect,
        petrous=profile.petrous,
        orbits=profile.orbits,
    )


def draw_scanner(rng: np.random.Generator, profile: Profile) -> Scanner:
    """One acquisition.

    Args:
        rng: Source of chance.
        profile: Ranges.

    Returns:
        Its parameters.
    """
    return Scanner(
        fov_mm=_in(rng, profile.fov_mm),
        noise_hu=_in(rng, profile.noise_hu),
        blur_mm=_in(rng, profile.blur_mm),
        sharpness=_in(rng, profile.sharpness),
        cupping_hu=_in(rng, profile.cupping_hu),
        band_mm=_in(rng, profile.band_mm),
        streak_hu=_in(rng, profile.streak_hu),
        offset_hu=_in(rng, profile.offset_hu),
        gain=_in(rng, profile.gain),
        headrest=bool(rng.random() < profile.p_headrest),
        motion_mm=_if(rng, profile.p_motion, (0.8, 5.0)),
    )
