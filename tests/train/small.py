"""Recipes and phantoms small enough for a test."""

from triage.phantom import PhantomSpec
from triage.train.cache import Frame
from triage.train.phantoms import PhantomData
from triage.train.recipes import Recipe, overridden, recipe_named

SMALL = PhantomData(range(60), Frame(64, 220.0), PhantomSpec(size_px=64, n_slices=8, p_bleed=0.85))
"""Sixty small heads; most bleed, so that every part of the split has some."""

SMALL_PIXELS = {
    "preprocessing.resize_px": "64", "preprocessing.crop_px": "64", "preprocessing.fov_mm": "220",
    "architecture": "resnet18",
}  # fmt: skip


def small(name: str, **changes: str) -> Recipe:
    """A recipe at the size of the small cache, quick enough for a test, also where a processor only imitates bf16."""
    quick = {"batch": "16", "epochs": "2", "draws": "32", "precision": "fp32"}
    return overridden(recipe_named(name), SMALL_PIXELS | quick | changes)
