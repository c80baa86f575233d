"""Stored values to Hounsfield units: each vendor fault, and the sound images that must not be mended."""

from typing import Any

import numpy as np
import pytest
from dicom.intake_data import head_hu

from triage.dicom.hounsfield import PixelFacts, to_hu
from triage.errors import SliceError

SIZE = 64


def facts(**fields: Any) -> PixelFacts:
    values: dict[str, Any] = {"rows": SIZE, "columns": SIZE, "bits_allocated": 16, "bits_stored": 16, "high_bit": 15,
                              "signed": True, "slope": 1.0, "intercept": 0.0}  # fmt: skip
    return PixelFacts(**(values | fields))


UNSIGNED_12 = {"bits_stored": 12, "high_bit": 11, "signed": False}


def head(metal_hu: int = 1100) -> np.ndarray[Any, np.dtype[np.int64]]:
    """(SIZE, SIZE) HU with a piece of metal in the middle and fat under the skin."""
    hu = np.kron(head_hu(), np.ones((2, 2), int)).astype(np.int64)
    hu[30:34, 30:34] = metal_hu
    hu[14, 30:34] = -90
    return hu


def test_rescale() -> None:
    hu, repairs = to_hu((head() + 1024) // 2, facts(slope=2.0, intercept=-1024.0))
    assert hu.dtype == np.float32
    assert np.abs(hu - head()).max() <= 1
    assert repairs == ()


def test_values_beyond_the_range_are_clipped() -> None:
    image = head()
    image[20, 20:24] = 32767
    hu, repairs = to_hu(image, facts())
    assert (hu.min(), hu.max()) == (-1000, 3071)
    assert repairs == ()


@pytest.mark.parametrize("intercept", [0.0, 1.0])
@pytest.mark.parametrize("metal_hu", [1100, 2047, 2048, 2500, 3071])
def test_values_modulo_4096_are_unwrapped_and_dense_metal_stays_dense(intercept: float, metal_hu: int) -> None:
    image = head(metal_hu)
    hu, repairs = to_hu((image - int(intercept)) % 4096, facts(**UNSIGNED_12, intercept=intercept))
    assert np.array_equal(hu, image)
    assert repairs == ("wrap12",)


def test_a_wrapped_padding_of_minus_2000_is_air_and_not_bone() -> None:
    image = head()
    image[(np.hypot(*(np.mgrid[:SIZE, :SIZE] - 31.5)) > 31)] = -2000
    hu, repairs = to_hu(image % 4096, facts(**UNSIGNED_12))
    assert np.array_equal(hu, np.where(image == -2000, -1024, image))
    assert repairs == ("wrap12",)


@pytest.mark.parametrize("padding", [-2000 % 65536, 2096])
def test_a_wrapped_padding_may_be_declared(padding: int) -> None:
    image = head()
    image[:6] = image[-6:] = -2000
    hu, _ = to_hu(image % 4096, facts(**UNSIGNED_12, padding=padding))
    assert np.array_equal(hu, np.where(image == -2000, -1024, image))


def test_metal_of_2096_hu_within_a_wrapped_image_is_no_padding() -> None:
    hu, _ = to_hu(head(2096) % 4096, facts(**UNSIGNED_12))
    assert hu[31, 31] == 2096


@pytest.mark.parametrize(
    ("image", "fields"),
    [
        (head() + 1024, {**UNSIGNED_12, "intercept": -1024.0}),
        (np.maximum(head(), 0), UNSIGNED_12),
        (np.where(head() < 0, 24, head()), UNSIGNED_12),
    ],
    ids=["ordinary", "cut at zero", "air not black"],
)
def test_a_sound_12_bit_image_is_not_unwrapped(image: Any, fields: dict[str, Any]) -> None:
    hu, repairs = to_hu(image, facts(**fields))
    assert np.array_equal(hu, image + fields.get("intercept", 0))
    assert repairs == ()


def test_undeclared_padding_becomes_air() -> None:
    image = head()
    image[:6] = -2000
    hu, repairs = to_hu(image, facts(intercept=-1024.0))
    assert set(np.unique(hu[:6])) == {-1024}
    assert repairs == ("pad2000",)


@pytest.mark.parametrize("signed", [True, False])
def test_declared_padding_becomes_air_whatever_sign_it_was_read_with(signed: bool) -> None:
    image = head() + (0 if signed else 1024)
    stored, declared = (-1500, 65536 - 1500) if signed else (0, 0)
    image[:6] = stored
    hu, repairs = to_hu(image, facts(signed=signed, intercept=0.0 if signed else -1024.0, padding=declared))
    assert set(np.unique(hu[:6])) == {-1024}
    assert np.array_equal(hu[6:], head()[6:])
    assert repairs == ()


def test_a_padding_range() -> None:
    image = head()
    image[:6] = np.arange(-3000, -2936)
    hu, repairs = to_hu(image, facts(padding=65536 - 2900, padding_limit=65536 - 3000))
    assert set(np.unique(hu[:6])) == {-1024}
    assert repairs == ()


def test_a_padding_value_that_reads_as_brain_is_not_believed() -> None:
    hu, _ = to_hu(head(), facts(padding=35))
    assert np.array_equal(hu, head())


def test_a_padding_value_that_reads_as_bone_is_believed_when_the_corners_are_full_of_it() -> None:
    image = head()
    image[head() == -1000] = 2000
    hu, _ = to_hu(image, facts(padding=2000))
    assert np.array_equal(hu, np.where(head() == -1000, -1024, head()))


@pytest.mark.parametrize("bits", [12, 13])
def test_a_sign_bit_below_the_top_is_extended(bits: int) -> None:
    hu, repairs = to_hu(head() % (1 << bits), facts(bits_stored=bits, high_bit=bits - 1))
    assert np.array_equal(hu, head())
    assert repairs == ("sign",)


def test_a_sign_that_is_extended_already_stays() -> None:
    hu, repairs = to_hu(head(), facts(bits_stored=12, high_bit=11))
    assert np.array_equal(hu, head())
    assert repairs == ()


def test_values_with_an_offset_that_are_wrongly_called_signed_stay() -> None:
    hu, repairs = to_hu(head(2500) + 1024, facts(bits_stored=12, high_bit=11, intercept=-1024.0))
    assert np.array_equal(hu, head(2500))
    assert repairs == ()


def test_a_negative_padding_in_an_unsigned_image_is_air() -> None:
    image = head() + 1024
    image[:6] = 65536 - 2000
    hu, repairs = to_hu(image, facts(**UNSIGNED_12, intercept=-1024.0))
    assert set(np.unique(hu[:6])) == {-1024}
    assert repairs[0] == "sign"


def test_an_overlay_above_the_pixel_is_masked() -> None:
    image = head() + 1024
    image[20:24] |= 1 << 12
    hu, _ = to_hu(image, facts(**UNSIGNED_12, intercept=-1024.0, overlay_in_pixels=True))
    assert np.array_equal(hu, head())


@pytest.mark.parametrize("value", [0, -1000, 1000, -2000])
def test_an_image_of_one_value_is_refused(value: int) -> None:
    with pytest.raises(SliceError, match=f"every pixel has the same value \\({value}\\)"):
        to_hu(np.full((SIZE, SIZE), value), facts())


def test_an_image_of_padding_and_air_only_in_one_value_is_refused() -> None:
    image = np.full((SIZE, SIZE), -2000)
    image[10:20] = -3000
    with pytest.raises(SliceError, match="same value"):
        to_hu(image, facts())


def test_noise_is_refused() -> None:
    noise = np.random.default_rng(0).integers(-32768, 32767, (SIZE, SIZE))
    with pytest.raises(SliceError, match="% of the pixels hold values that no CT image has"):
        to_hu(noise, facts())


def test_odd_padding_and_saturated_metal_are_no_noise() -> None:
    image = head()
    image[:20], image[50:54] = -32768, 32767
    hu, _ = to_hu(image, facts())
    assert (hu.min(), hu.max()) == (-1024, 3071)
