"""Volumes and mean densities of real bleeds, as quantiles to draw from.

Measured on the 1,433 bleeds above 0.1 mL of BHSD (Brain Hemorrhage Segmentation Dataset), published by the FDA's
InSilicoICH framework under CC0.
"""

import numpy as np

QUANTILES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Shares of bleeds below each value of the tables."""

MEASURED_ML = {
    "epidural": (0.13, 0.16, 0.23, 0.54, 1.36, 2.79, 4.89, 5.73, 10.5, 16.0, 23.1, 37.2, 80.0),
    "intraparenchymal": (0.1, 0.13, 0.16, 0.3, 0.54, 1.07, 1.9, 3.3, 6.6, 11.8, 36.9, 57.9, 90.0),
    "intraventricular": (0.1, 0.13, 0.16, 0.26, 0.34, 0.52, 0.75, 1.09, 1.94, 3.42, 8.8, 14.2, 40.0),
    "subarachnoid": (0.1, 0.11, 0.12, 0.15, 0.19, 0.24, 0.31, 0.43, 0.58, 0.94, 2.05, 4.11, 30.0),
    "subdural": (0.1, 0.12, 0.16, 0.23, 0.37, 0.54, 0.82, 1.35, 2.48, 5.71, 22.3, 55.0, 110.0),
}
"""Of one bleed, at QUANTILES; the greatest are trimmed to what leaves a head whole."""

SMALL_HU = {
    "epidural": (38.0, 38.5, 39.0, 47.5, 52.6, 54.4, 55.5, 57.4, 59.3, 59.8, 61.7, 61.9, 62.0),
    "intraparenchymal": (27.0, 33.7, 36.0, 38.7, 41.1, 43.3, 45.6, 47.3, 50.4, 53.0, 55.9, 58.3, 67.0),
    "intraventricular": (22.0, 27.2, 29.9, 32.2, 34.9, 36.7, 38.5, 40.7, 42.8, 44.6, 50.4, 52.3, 62.0),
    "subarachnoid": (25.0, 31.9, 34.3, 37.3, 39.3, 41.0, 42.5, 44.5, 46.7, 49.3, 52.7, 56.9, 68.0),
    "subdural": (20.0, 32.2, 36.6, 43.0, 46.2, 48.6, 50.5, 52.7, 56.1, 59.4, 63.7, 66.5, 72.0),
}
"""Mean HU over the mask of a bleed of at most SMALL_ML, at QUANTILES; single outliers at the ends are trimmed."""

LARGE_HU = {
    "epidural": (42.2, 47.5, 48.9, 51.3, 52.0, 56.2, 58.9, 61.8, 63.6, 65.7, 67.6, 70.0, 74.0),
    "intraparenchymal": (30.0, 38.0, 39.4, 44.4, 46.4, 49.2, 51.7, 52.7, 54.7, 56.3, 58.8, 60.5, 68.0),
    "intraventricular": (26.5, 30.9, 33.1, 36.4, 38.8, 42.2, 43.4, 47.6, 49.3, 51.5, 53.8, 57.7, 64.0),
    "subarachnoid": (29.7, 37.4, 40.0, 42.1, 43.9, 44.4, 45.6, 47.0, 48.9, 51.5, 55.2, 57.9, 65.5),
    "subdural": (20.1, 24.0, 35.7, 42.4, 46.7, 49.5, 51.6, 56.4, 57.5, 61.6, 68.2, 69.4, 74.0),
}
"""The same of larger bleeds."""

SMALL_ML = 2.0
"""Up to here a bleed counts as small: partial volume darkens it."""


def measured_ml(label: str, chance: float) -> float:
    """A volume as measured.

    Args:
        label: Subtype.
        chance: Even draw, 0..1.

    Returns:
        mL.
    """
    return float(np.exp(np.interp(chance, QUANTILES, [float(np.log(v)) for v in MEASURED_ML[label]])))


def mean_hu(label: str, volume_ml: float, chance: float) -> float:
    """A mean density as measured on bleeds of about that size.

    Args:
        label: Subtype.
        volume_ml: Of the bleed.
        chance: Even draw, 0..1.

    Returns:
        HU.
    """
    table = SMALL_HU if volume_ml <= SMALL_ML else LARGE_HU
    return float(np.interp(chance, QUANTILES, table[label]))
