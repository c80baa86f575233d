"""What phantom to make, and the stack of slices that follows from it and from what is drawn."""

from dataclasses import dataclass

import numpy as np

from triage.phantom.profile import USUAL, Profile, Scanner
from triage.records import SUBTYPES

WHOLE_HEAD_MM = 160.0
"""What a stack covers where its number of slices is left open."""


@dataclass(frozen=True, slots=True)
class PhantomSpec:
    """What to make; everything not stated here is drawn from the seed."""

    n_slices: int | None = 32
    """None: as many as cover the whole head."""
    size_px: int = 512
    """Rows and columns; 160 to 256 is meant for training."""
    spacing_mm: float | None = 5.0
    """Between slices, along their normal; None: drawn from the profile."""
    thickness_mm: float | None = None
    """Of a slice; None: the spacing."""
    fov_mm: float | None = None
    """Side of the image; None: drawn."""
    tilt_deg: float | None = 0.0
    """Of the gantry; slices stay as seen, their positions shear; None: drawn from the profile."""
    subtypes: tuple[str, ...] | None = None
    """Bleeds to have; () for none, None for a random choice."""
    p_bleed: float = 0.6
    """Probability of any bleed where `subtypes` is None."""
    volume_ml: tuple[float, float] | None = None
    """Range of each bleed's volume; None: each subtype's own, with a tail of tiny ones."""
    p_tiny: float = 0.12
    """Share of that tail."""
    profile: Profile = USUAL

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        count = 1 if self.n_slices is None else self.n_slices
        spacing = 1.0 if self.spacing_mm is None else self.spacing_mm
        if count < 1 or self.size_px < 32 or spacing <= 0:
            raise ValueError("a phantom has at least one slice of 32 pixels and a positive spacing")
        if unknown := set(self.subtypes or ()) - set(SUBTYPES):
            raise ValueError(f"unknown subtype {min(unknown)}")


@dataclass(frozen=True, slots=True)
class Stack:
    """The slices of one phantom."""

    n_slices: int
    size_px: int
    spacing_mm: float
    thickness_mm: float
    fov_mm: float
    tilt_deg: float

    @property
    def pixel_mm(self) -> float:
        """Side of a pixel."""
        return self.fov_mm / self.size_px

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel, slices side by side."""
        return self.pixel_mm**2 * self.spacing_mm / 1000.0


def draw_stack(spec: PhantomSpec, scanner: Scanner, rng: np.random.Generator) -> Stack:
    """The stack that a spec asks for, its open choices drawn.

    Args:
        spec: What to make.
        scanner: Draws the field of view.
        rng: Source of chance; draws as much whatever is open.

    Returns:
        The stack.
    """
    low, high = spec.profile.spacing_mm
    drawn_spacing = float(low * (high / low) ** rng.random())
    drawn_tilt = float(rng.uniform(*spec.profile.tilt_deg))
    spacing = drawn_spacing if spec.spacing_mm is None else spec.spacing_mm
    return Stack(
        n_slices=max(round(WHOLE_HEAD_MM / spacing), 1) if spec.n_slices is None else spec.n_slices,
        size_px=spec.size_px,
        spacing_mm=spacing,
        thickness_mm=spec.thickness_mm or spacing,
        fov_mm=spec.fov_mm or scanner.fov_mm,
        tilt_deg=drawn_tilt if spec.tilt_deg is None else spec.tilt_deg,
    )
