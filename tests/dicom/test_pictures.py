import numpy as np
import pytest

from triage.dicom.canvas import CONTOUR
from triage.dicom.contours import outlines
from triage.dicom.pictures import Shown, draw_slice, head_box
from triage.records import ActivationMap, Slice, Volume

EDGE_PX = 560


@pytest.mark.parametrize("center", [(50, 90), (90, 170), (30, 60)])
@pytest.mark.parametrize("spacing_mm", [(0.9, 0.6), (0.6, 0.9)])
def test_an_outline_lies_around_what_it_outlines(center: tuple[int, int], spacing_mm: tuple[float, float]) -> None:
    """In a picture that is cropped, oblong, and of pixels that are no squares."""
    y, x = np.mgrid[:160, :240] + 0.5
    spot = ((y - center[0]) / 6) ** 2 + ((x - center[1]) / 9) ** 2 < 1
    hu = np.full((1, 160, 240), -1000, np.float32)
    hu[:, 20:140, 40:200] = 0
    hu[0, spot] = 80
    volume = Volume(hu, (Slice("1"),), (0.0,), spacing_mm, 5.0)
    box = head_box(volume, [0])
    assert box != (0, 0, 240, 160)
    outline = outlines(ActivationMap("any", 0, spot.astype(np.float32)))
    plain = np.asarray(draw_slice(Shown(volume, 0, box), EDGE_PX))
    marked = np.asarray(draw_slice(Shown(volume, 0, box, outline), EDGE_PX))
    bright = np.argwhere(plain[:, :, 0] > 200)
    line = np.argwhere((np.abs(marked.astype(int) - CONTOUR) < 60).all(axis=2))
    assert line.min(axis=0) == pytest.approx(bright.min(axis=0), abs=3)
    assert line.max(axis=0) == pytest.approx(bright.max(axis=0), abs=3)
