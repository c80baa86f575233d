from dataclasses import replace

import pytest
import torch

from triage.nn.preprocess import (
    BRAIN,
    SOFT,
    SUBDURAL,
    Order,
    Preprocessing,
    Window,
    average_thin,
    channels,
    cropped,
    framed,
    prepare,
    prepare_cached,
    unframe,
)
from triage.records import HU_MAX, HU_MIN

PLAIN = Preprocessing(resize_px=64, crop_px=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def disc(rows: int, columns: int, center: tuple[float, float], radius: tuple[float, float], hu: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    inside = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
    return torch.where(inside, hu, -1000.0)


def extent_px(image: torch.Tensor) -> tuple[int, int]:
    mask = image > 0.25
    return int(mask.any(dim=1).sum()), int(mask.any(dim=0).sum())


def test_windows_are_the_channels_in_stated_order() -> None:
    hu = torch.tensor([0.0, 40.0, 80.0, -20.0, 180.0, 230.0]).repeat_interleave(64 * 64).view(6, 64, 64)
    brain, subdural, soft = prepare(hu, PLAIN)[:, :, 32, 32].unbind(1)
    assert brain.tolist() == pytest.approx([0, 0.5, 1, 0, 1, 1])
    assert subdural.tolist() == pytest.approx([0.1, 0.3, 0.5, 0, 1, 1])
    assert soft.tolist() == pytest.approx([(v + 150) / 380 for v in (0, 40, 80, -20, 180, 230)])
    turned = prepare(hu, replace(PLAIN, windows=(SOFT, BRAIN, SUBDURAL)))[:, :, 32, 32]
    assert torch.equal(turned, torch.stack([soft, brain, subdural], dim=1))


def test_normalisation_is_that_of_the_card() -> None:
    hu = torch.full((2, 64, 64), 40.0)
    image = prepare(hu, replace(PLAIN, mean=(0.5, 0.1, 0.0), std=(2.0, 0.5, 1.0)))
    assert image[1, :, 5, 5].tolist() == pytest.approx([0.0, 0.4, 0.5])


def test_values_outside_hounsfield_range_are_clipped() -> None:
    hu = torch.full((1, 64, 64), 32767.0)
    hu[:, :, :32] = -3024.0
    clipped = hu.clamp(-1024.0, 3071.0)
    assert torch.equal(prepare(hu, PLAIN), prepare(clipped, PLAIN))


@pytest.mark.parametrize("order", ["resize_then_window", "window_then_resize"])
def test_padding_is_air_to_a_square(order: str) -> None:
    hu = torch.full((1, 100, 200), 40.0)
    image = prepare(hu, replace(PLAIN, order=order))[0]  # type: ignore[arg-type]  # one of the two literals
    assert image.shape == (3, 64, 64)
    assert image[:, :16].abs().max() == 0
    assert image[:, 48:].abs().max() == 0
    assert image[0, 16:48].min() == pytest.approx(0.5)


def test_non_square_pixels_become_square() -> None:
    # 0.5 mm rows, 1 mm columns: a circle of 40 mm radius is 160 rows by 80 columns.
    hu = disc(256, 128, (128, 64), (80, 40), 40.0)[None]
    height, width = extent_px(prepare(hu, PLAIN, (0.5, 1.0))[0, 0])
    assert height == width
    assert abs(width - 40) <= 2  # a window without bone loses the blended border


def test_crop_is_central() -> None:
    hu = torch.full((1, 100, 100), -1000.0)
    hu[:, 40:60, 40:60] = 40.0
    image = prepare(hu, replace(PLAIN, resize_px=100, crop_px=50))[0, 0]
    assert image.shape == (50, 50)
    assert image[15:35, 15:35].min() == pytest.approx(0.5)
    assert image.sum() == pytest.approx(0.5 * 400)


def test_downscaling_averages() -> None:
    checkerboard = (torch.arange(512)[:, None] + torch.arange(512)) % 2 * 80.0
    image = prepare(checkerboard[None], PLAIN)[0, 0]
    assert image.min() == pytest.approx(0.5, abs=0.01)
    assert image.max() == pytest.approx(0.5, abs=0.01)


def test_resize_order_differs_beside_bone() -> None:
    hu = disc(256, 256, (128, 128), (80, 80), 1000.0)[None]
    first, second = (prepare(hu, replace(PLAIN, order=o)) for o in ("resize_then_window", "window_then_resize"))
    assert (first - second).abs().max() > 0.2
    assert (first[0, :, 32, 32] - second[0, :, 32, 32]).abs().max() == 0


def test_head_has_one_scale_and_place_whatever_the_field_of_view() -> None:
    framed = replace(PLAIN, fov_mm=200.0)
    wide = prepare(disc(512, 512, (200, 300), (90, 70), 40.0)[None], framed, (1.0, 1.0))
    near = prepare(disc(400, 400, (190, 205), (180, 140), 40.0)[None], framed, (0.5, 0.5))
    assert abs(extent_px(wide[0, 0])[0] - 58) <= 2
    assert abs(extent_px(wide[0, 0])[1] - 45) <= 2
    assert (wide - near).abs().mean() < 0.01


def test_empty_slice_is_air() -> None:
    image = prepare(torch.full((2, 64, 64), HU_MIN), replace(PLAIN, fov_mm=200.0))
    assert image.abs().max() == 0


def test_jittered_windows_replace_the_stated_ones() -> None:
    hu = torch.full((2, 64, 64), 40.0)
    windows = torch.tensor([[[40.0, 80.0]] * 3, [[50.0, 80.0]] * 3])
    image = prepare(hu, PLAIN, windows=windows)
    assert image[0].mean() == pytest.approx(0.5)
    assert image[1].mean() == pytest.approx(0.375)


def test_batch_and_single_image_agree_exactly() -> None:
    """What makes serving (batches of a series) and training (batches of anything) the same."""
    hu = torch.randn(5, 96, 80, generator=torch.Generator().manual_seed(3)) * 300
    framed = Preprocessing(resize_px=64, crop_px=56, fov_mm=150.0)
    together = prepare(hu, framed, (1.5, 2.0))
    alone = torch.cat([prepare(image[None], framed, (1.5, 2.0)) for image in hu])
    assert torch.equal(together, alone)


class TestAverageThin:
    def test_thick_slices_are_left_alone(self) -> None:
        hu = torch.randn(4, 8, 8)
        slabs, members = average_thin(hu, (0.0, 4.0, 8.0, 12.0), 5.0)
        assert slabs is hu
        assert members == [(0,), (1,), (2,), (3,)]

    def test_thin_slices_are_averaged(self) -> None:
        hu = torch.arange(8.0).view(8, 1, 1).expand(8, 2, 2)
        slabs, members = average_thin(hu, [1.25 * i - 30 for i in range(8)], 5.0)
        assert members == [(0, 1, 2, 3), (4, 5, 6, 7)]
        assert slabs[:, 0, 0].tolist() == [1.5, 5.5]

    def test_a_missing_slice_moves_no_other(self) -> None:
        positions = [1.25 * i for i in range(12) if i != 5]
        _, members = average_thin(torch.zeros(11, 2, 2), positions, 5.0)
        assert members == [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9, 10)]

    def test_every_slice_is_in_one_slab(self) -> None:
        positions = [0.625 * i + 0.0004 * (i % 3) for i in range(100)]
        _, members = average_thin(torch.zeros(100, 2, 2), positions, 5.0)
        assert [i for m in members for i in m] == list(range(100))
        assert {len(m) for m in members[:-1]} == {8}

    @pytest.mark.parametrize("positions", [(0.0,), (0.0, 0.0, 0.0)])
    def test_unknown_geometry_is_left_alone(self, positions: tuple[float, ...]) -> None:
        hu = torch.zeros(len(positions), 2, 2)
        assert average_thin(hu, positions, 5.0)[0] is hu

    def test_zero_thickness_averages_nothing(self) -> None:
        hu = torch.zeros(3, 2, 2)
        assert average_thin(hu, (0.0, 1.0, 2.0), 0.0)[0] is hu


def textured(rows: int, columns: int, air_px: int = 30) -> torch.Tensor:
    """(2, rows, columns) whole HU: texture of brain and bone with air around, off the centre."""
    hu = (torch.randn(2, rows, columns, generator=torch.Generator().manual_seed(1)) * 200 + 40).round()
    hu[:, :air_px] = hu[:, :, :air_px] = hu[:, :, -air_px:] = -1000.0
    hu[:, -2 * air_px :] = HU_MIN
    return hu


SHAPES = {"square": (512, 512, (0.5, 0.5)), "non-square": (400, 512, (0.5, 0.5)), "odd pixels": (384, 300, (0.6, 0.7))}
"""Rows, columns and spacing in mm."""


class TestCache:
    """What training reads from a cache (int16) is what serving makes of the original slice, to the last bit."""

    @pytest.mark.parametrize("fov_mm", [0.0, 180.0])
    @pytest.mark.parametrize("shape", list(SHAPES))
    def test_framed_slices_give_what_serving_sees(self, shape: str, fov_mm: float) -> None:
        rows, columns, spacing_mm = SHAPES[shape]
        hu, preprocessing = textured(rows, columns), Preprocessing(fov_mm=fov_mm)
        stored = framed(hu, preprocessing, spacing_mm).to(torch.int16)
        assert stored.shape == (2, 256, 256)
        served = prepare(hu, preprocessing, spacing_mm)
        assert torch.equal(prepare_cached(stored, preprocessing), served)
        assert served.std() > 0.5

    @pytest.mark.parametrize("shape", ["square", "non-square"])
    def test_whole_images_give_what_serving_sees_where_windows_come_first(self, shape: str) -> None:
        """A cache of such images is as large as their longer side, and keeps them as they are."""
        rows, columns, spacing_mm = SHAPES[shape]
        hu, preprocessing = textured(rows, columns), Preprocessing(order="window_then_resize")
        stored = framed(hu, Preprocessing(resize_px=512), spacing_mm).to(torch.int16)
        top = (512 - rows) // 2
        assert torch.equal(stored[:, top : top + rows].float(), hu)
        assert torch.equal(prepare_cached(stored, preprocessing), prepare(hu, preprocessing, spacing_mm))

    def test_framed_values_are_whole_and_in_range(self) -> None:
        hu = textured(300, 300)
        hu[:, 100:150, 100:150] = 32767.0
        found = framed(hu, Preprocessing(resize_px=128), (1.0, 1.0))
        assert torch.equal(found, found.round())
        assert found.min() == HU_MIN
        assert found.max() == HU_MAX

    def test_the_size_of_the_crop_does_not_change_what_is_stored(self) -> None:
        hu = textured(300, 300)
        first, second = (framed(hu, Preprocessing(crop_px=px), (1.0, 1.0)) for px in (224, 256))
        assert torch.equal(first, second)

    def test_jittered_windows_reach_cached_slices(self) -> None:
        hu, windows = textured(256, 256), torch.tensor([[[40.0, 80.0]] * 3, [[50.0, 90.0]] * 3])
        for order in ("resize_then_window", "window_then_resize"):
            preprocessing = Preprocessing(order=order)
            assert torch.equal(
                prepare_cached(hu.to(torch.int16), preprocessing, windows), prepare(hu, preprocessing, windows=windows)
            )


def places(n: int, side: int) -> torch.Tensor:
    """(n, 1, side, side) planes whose values tell row and column."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (1000 * row + column).float().expand(n, 1, side, side)


class TestOffsets:
    @pytest.mark.parametrize("side", [32, 33])
    def test_a_crop_lies_where_its_offset_says(self, side: int) -> None:
        offsets = torch.tensor([[0, 0], [-4, 3], [4, -4], [-99, 99]])
        found = cropped(places(4, side), 24, offsets)
        first, last = (side - 24) // 2, side - 24
        starts = [(first, first), (first - 4, first + 3), (first + 4, first - 4), (0, last)]
        assert found.shape == (4, 1, 24, 24)
        assert [(int(f[0, 0, 0]) // 1000, int(f[0, 0, 0]) % 1000) for f in found] == starts
        for plane, (row, column) in zip(found, starts, strict=True):
            assert torch.equal(plane, places(1, side)[0, :, row : row + 24, column : column + 24])

    def test_no_offset_is_the_central_crop(self) -> None:
        planes = places(2, 40)
        assert torch.equal(cropped(planes, 24), cropped(planes, 24, torch.zeros(2, 2, dtype=torch.long)))
        assert torch.equal(cropped(planes, 40, torch.tensor([[5, 5], [-5, 5]])), planes)

    @pytest.mark.parametrize("order", ["resize_then_window", "window_then_resize"])
    def test_cached_slices_are_cropped_off_the_centre(self, order: Order) -> None:
        hu, offsets = textured(256, 256), torch.tensor([[-16, 16], [7, -3]])
        whole = prepare(hu, Preprocessing(order=order, crop_px=256))
        found = prepare_cached(hu, Preprocessing(order=order), None, offsets)
        assert torch.equal(found[0], whole[0, :, :224, 32:])
        assert torch.equal(found[1], whole[1, :, 23 : 23 + 224, 13 : 13 + 224])

    def test_crop_comes_before_windows_or_after_them_alike(self) -> None:
        hu = textured(256, 256)
        images = channels(hu, Preprocessing())
        assert torch.equal(images, channels(hu, Preprocessing(crop_px=256))[:, :, 16:240, 16:240])


BONE = Window("bone", 500.0, 1000.0)
MARKS = {
    "square": ((512, 512), (0.45, 0.45), (256, 256)),
    "anisotropic": ((300, 400), (0.9, 0.6), (150, 200)),
    "not square": ((400, 512), (0.5, 0.5), (200, 256)),
    "off-centre": ((512, 512), (0.5, 0.5), (200, 330)),
    "larger in the input": ((96, 80), (2.2, 2.2), (50, 38)),
}
"""Rows and columns, spacing in mm, centre of the head."""


class TestUnframe:
    @pytest.mark.parametrize("sizes", [(136, 136), (256, 224), (255, 224)])
    @pytest.mark.parametrize("order", ["resize_then_window", "window_then_resize"])
    @pytest.mark.parametrize("fov_mm", [0.0, 190.0])
    @pytest.mark.parametrize("case", list(MARKS))
    def test_a_mark_comes_back_to_its_place(
        self, case: str, fov_mm: float, order: Order, sizes: tuple[int, int]
    ) -> None:
        """Painted into slices, through all that `prepare` does, and back."""
        shape, spacing_mm, center = MARKS[case]
        wanted = Preprocessing((BONE,) * 3, order, fov_mm, *sizes, mean=(0.0,) * 3, std=(1.0,) * 3)
        radius = 70.0 / spacing_mm[0], 60.0 / spacing_mm[1]
        head = disc(*shape, center, radius, 120.0)
        half = [max(1, round(1.5 / mm)) for mm in spacing_mm]
        places = [(center[0] + int(dy * radius[0]), center[1] + int(dx * radius[1]))
                  for dy, dx in ((0.0, 0.0), (0.6, 0.3), (-0.5, -0.5))]  # fmt: skip
        marked = head.repeat(len(places), 1, 1)
        for hu, (row, column) in zip(marked, places, strict=True):
            hu[row - half[0] : row + half[0] + 1, column - half[1] : column + half[1] + 1] = 1000.0
        seen = (prepare(marked, wanted, spacing_mm) - prepare(head[None], wanted, spacing_mm))[:, :1]
        found = unframe(seen, marked, wanted, spacing_mm)
        assert found.shape == (3, 1, *shape)
        for plane, (row, column) in zip(found[:, 0], places, strict=True):
            rows, columns = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
            weight = plane / plane.sum()
            middle = float((weight * rows).sum()), float((weight * columns).sum())
            assert middle == pytest.approx((row, column), abs=0.25)

    @pytest.mark.parametrize("order", ["resize_then_window", "window_then_resize"])
    def test_what_the_network_does_not_see_is_zero(self, order: Order) -> None:
        hu = torch.full((1, 100, 100), 40.0)
        central = unframe(torch.ones(1, 2, 50, 50), hu, replace(PLAIN, order=order, resize_px=100, crop_px=50), (1, 1))
        expected = torch.zeros(100, 100)
        expected[25:75, 25:75] = 1.0
        assert torch.equal(central[0, 0], expected)
        assert torch.equal(central[0, 1], expected)

    def test_values_at_the_edge_of_the_view_do_not_fade(self) -> None:
        hu = torch.full((1, 512, 512), 40.0)
        assert unframe(torch.ones(1, 1, 64, 64), hu, PLAIN, (0.5, 0.5)).min() == 1.0

    def test_padding_beside_the_slice_is_left_out(self) -> None:
        rows = torch.arange(64.0)[:, None].expand(64, 64)[None, None]
        found = unframe(rows, torch.zeros(1, 100, 200), PLAIN, (1.0, 1.0))
        assert found.shape == (1, 1, 100, 200)
        assert float(found.min()) == pytest.approx(16, abs=0.5)
        assert float(found.max()) == pytest.approx(47, abs=0.5)
