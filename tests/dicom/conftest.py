"""Small synthetic CT series on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dicom.intake_data import Series, ct_dataset, write


@pytest.fixture
def ct_series(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes a series, given the fields of `Series`, and gives its files."""

    def write_series(**fields: Any) -> list[Path]:
        series = Series(**fields)
        paths = []
        for k in range(series.n):
            ds = ct_dataset(series, k)
            series.change(ds)
            paths.append(write(tmp_path / f"series{series.number}" / f"{k:03}.dcm", ds))
        return paths

    return write_series
