from pathlib import Path

import numpy as np
import pytest
import torch

from triage.errors import DataError
from triage.nn.preprocess import Preprocessing, framed
from triage.phantom import VERSION, PhantomSpec, generate
from triage.records import SUBTYPES
from triage.train.cache import Frame, open_cache, verify
from triage.train.phantoms import PhantomData, write_phantoms

SPEC = PhantomSpec(size_px=96, n_slices=6, p_bleed=1.0)
DATA = PhantomData(range(18, 21), Frame(64, 220.0), SPEC)


def test_slices_labels_and_bleeds_are_those_of_the_phantom(tmp_path: Path) -> None:
    cache = write_phantoms(tmp_path / "cache", DATA, workers=1)
    verify(cache)
    study = generate(19, SPEC)  # twenty millilitres, of two subtypes
    rows = np.arange(6, 12)
    assert set(cache.index.study[rows]) == {f"phantom-{VERSION}-usual-19"}
    assert np.array_equal(cache.index.labels[rows], study.slice_labels())
    pixels = Preprocessing(fov_mm=220.0, resize_px=64, crop_px=64)
    served = framed(torch.from_numpy(study.hu.astype(np.float32)), pixels, study.spacing_mm)
    assert np.array_equal(cache.hu(rows), served.numpy())
    bleeds = cache.bleeds(rows)
    kinds = {SUBTYPES[k - 1] for k in np.unique(bleeds) if k}
    assert kinds
    assert kinds <= {label for label in SUBTYPES if study.masks[label].any()}
    pixel_ml = (220.0 / 64) ** 2 * 5.0 / 1000.0
    whole = sum(study.volumes_ml.values())
    assert (bleeds > 0).sum() * pixel_ml == pytest.approx(whole, rel=0.1)


def test_the_same_bytes_from_any_number_of_processes_and_after_an_interruption(tmp_path: Path) -> None:
    straight = write_phantoms(tmp_path / "straight", DATA, workers=1)
    seen: list[int] = []

    def stop(done: int, _total: int) -> None:
        seen.append(done)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "other", DATA, workers=2, on_study=stop)
    with pytest.raises(DataError, match="not finished"):
        open_cache(tmp_path / "other")
    other = write_phantoms(tmp_path / "other", DATA, workers=2, on_study=lambda done, _: seen.append(done))
    assert other.identity == straight.identity
    assert seen == [1, 2, 3]


def test_a_second_run_does_nothing_and_other_phantoms_are_refused(tmp_path: Path) -> None:
    cache = write_phantoms(tmp_path / "cache", DATA, workers=1)
    again = write_phantoms(tmp_path / "cache", DATA, workers=1, on_study=lambda *_: pytest.fail("made again"))
    assert again.identity == cache.identity
    with pytest.raises(DataError, match="other phantoms"):
        write_phantoms(tmp_path / "cache", PhantomData(range(18, 22), DATA.frame, SPEC), workers=1)
