"""A pack on pictures of heads in a display window: greys back to HU, scored by slice; lays out no page."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from triage.errors import DataError
from triage.nn.card import Card
from triage.nn.pack import Pack
from triage.nn.predict import joint, slice_probabilities, study_probability
from triage.records import ANY, LABELS, SUBTYPES, FloatArray
from triage.train.assessed import PRECISION, Floats, is_present
from triage.train.errors_shown import Errors, ErrorShown
from triage.train.metrics import rate
from triage.train.trial_records import Area, PictureTrial, Shot, area

WINDOW = (80.0, 40.0)
"""Width and level of the FDA's pictures. Their ventricles have grey 48 to 52, which is then 15 to 16 HU, and 15 is what
their heads' CSF was made of (DIDSR/InSilicoICH); brain comes out at 32 HU at 140 kV to 45 at 80 kV on average."""

FOV_MM = 250.0
"""Side of the frame inside the margin: the largest outline of the adult is then 199 by 155 mm, of the children 205 by
172."""

SIDE_PX = 512
"""What pictures are brought to; theirs were drawn from so many pixels, enlarged 4.3 times."""

KINDS = {"none": "", "round": "intraparenchymal", **{label: label for label in SUBTYPES}}
"""What file names say, by lower case word."""

WHITE, BLACK, FRAME = 250, 5, 230
"""Greys from and up to which the window was left; margins are brighter than FRAME all along."""

EDGE = 0.004
"""Share of a side that is cut off with the margin: a thin line stands round the frame."""

CLOSING_PX = 6
"""Gaps in the thin line of the skin that are closed."""

LENS_PX = 8
"""Half of 8 mm: skull so much thicker than on the other side is a bleed beside it; the sides of a skull differ less."""

BONE_HU, FAT_HU, AIR_HU = 1000.0, -100.0, -1000.0
"""What stands for values that the window lost."""

WORD = re.compile(r"[^a-z]+")

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PictureSet:
    """A folder of pictures and how to read them."""

    folder: Path
    window: tuple[float, float] = WINDOW
    fov_mm: float = FOV_MM


def picture_trial(pack: Pack, pictures: PictureSet, errors: Errors, on_progress: OnProgress) -> PictureTrial:
    """Score pictures.

    Args:
        pack: What is measured.
        pictures: PNG files whose names say the kind of bleed.
        errors: Collects the worst answers.
        on_progress: Told what is done, how much of it, of how much.

    Returns:
        The figures.

    Raises:
        DataError: No such folder, a picture that cannot be read, or names that say nothing.
    """
    paths = picture_files(pictures.folder)
    shots = []
    for done, path in enumerate(paths):
        on_progress(f"pictures of {pictures.folder.name}", done, len(paths))
        shots.append(_shot(pack, path, pictures, errors))
    on_progress(f"pictures of {pictures.folder.name}", len(paths), len(paths))
    names = np.array([shot.name for shot in shots])
    bleeds = np.array([bool(shot.kind) for shot in shots])
    p_any = np.array([shot.p[ANY] for shot in shots])
    kinds: dict[str, Area] = {}
    own: dict[str, Area] = {}
    for kind in SUBTYPES:
        of_kind = np.array([shot.kind == kind for shot in shots])
        if of_kind.any():
            both = of_kind | ~bleeds
            kinds[kind] = area(p_any[both], of_kind[both], names[both])
            own[kind] = area(np.array([shot.p[kind] for shot in shots]), of_kind, names)
    found = {kind: rate(sum(s.found for s in shots if s.kind == kind), sum(s.kind == kind for s in shots))
             for kind in kinds}  # fmt: skip
    clear = [shot for shot in shots if not shot.kind]
    return PictureTrial(
        pictures.folder.name, pictures.window, pictures.fov_mm, area(p_any, bleeds, names), kinds, own, found,
        rate(sum(shot.found for shot in clear), len(clear)), tuple(shots),
    )  # fmt: skip


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder, by name.

    Raises:
        DataError: There is none, or one cannot be read or does not say its kind.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name one that holds PNG files")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png")
    if not paths:
        raise DataError(f"{folder}: holds no PNG file")
    for path in paths:
        kind_of(path.stem)
        try:
            Image.open(path).close()
        except (OSError, UnidentifiedImageError) as e:
            raise DataError(f"{path}: not a picture that can be read") from e
    return paths


def kind_of(name: str) -> str:
    """The subtype that a file name says, empty for no bleed.

    Raises:
        DataError: It says none.
    """
    for word in WORD.split(name.lower()):
        if word in KINDS:
            return KINDS[word]
    raise DataError(f"{name}: its name does not say a kind of bleed; write one of {', '.join(KINDS)}")


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """Read a picture and cut its margin off.

    Args:
        path: A PNG file; grey, or colours that are grey.

    Returns:
        (SIDE_PX, SIDE_PX) greys.

    Raises:
        DataError: It cannot be read, or nothing is inside the margin.
    """
    try:
        with Image.open(path) as picture:
            whole = np.asarray(picture.convert("RGB"))[..., 0]
    except (OSError, UnidentifiedImageError, ValueError) as e:
        raise DataError(f"{path}: not a picture that can be read") from e
    rows, columns = (np.flatnonzero((whole < FRAME).mean(axis=axis) > 0.1) for axis in (1, 0))
    if not len(rows) or not len(columns):
        raise DataError(f"{path}: nothing but margin")
    edge = round(EDGE * len(rows))
    inside = whole[rows[0] + edge : rows[-1] + 1 - edge, columns[0] + edge : columns[-1] + 1 - edge]
    return np.asarray(Image.fromarray(inside).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX))


def hounsfield(greys: npt.NDArray[np.uint8], window: tuple[float, float]) -> FloatArray:
    """Greys back to HU; what the window lost is put in by where it lies.

    White that hangs together with the skull is bone, unless the other side of the head has brain there; other white is
    as dense as the window ends. Black outside the head's outline is air, between outline and skull fat, inside the
    skull as the window begins.

    Args:
        greys: (rows, columns)
        window: Width and level in HU.

    Returns:
        (rows, columns) HU.
    """
    width, level = window
    hu: FloatArray = (level - width / 2 + greys.astype(np.float32) / 255 * width).astype(np.float32)
    white = greys >= WHITE
    solid = _largest(ndimage.binary_erosion(white, np.ones((3, 3))))
    skull = white & ndimage.binary_dilation(solid, np.ones((3, 3)), iterations=2)
    outline = ndimage.binary_fill_holes(ndimage.binary_closing(greys > BLACK, iterations=CLOSING_PX))
    inner = ndimage.binary_fill_holes(skull)
    black = greys <= BLACK
    hu[skull & ~_lens(skull, inner)] = BONE_HU
    hu[black & outline & ~inner] = FAT_HU
    hu[black & ~outline] = AIR_HU
    return hu


def _lens(skull: npt.NDArray[np.bool_], inner: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """White that lies where the mirrored head has brain: an extra-axial bleed too bright for the window."""
    columns = np.flatnonzero(inner.any(axis=0))
    if not len(columns):
        return inner
    head = slice(columns[0], columns[-1] + 1)
    cavity = ndimage.binary_opening(inner & ~skull, iterations=2)
    mirrored = np.zeros_like(cavity)
    mirrored[:, head] = cavity[:, head][:, ::-1]
    whole = ndimage.binary_closing(skull, iterations=CLOSING_PX) & mirrored
    core = ndimage.binary_opening(whole, iterations=LENS_PX)
    return np.asarray(ndimage.binary_dilation(core, iterations=2 * LENS_PX) & mirrored)


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Its largest connected part."""
    parts, n = ndimage.label(mask)
    if not n:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _shot(pack: Pack, path: Path, pictures: PictureSet, errors: Errors) -> Shot:
    kind = kind_of(path.stem)
    hu = hounsfield(read_picture(path), pictures.window)
    spacing_mm = (pictures.fov_mm / SIDE_PX, pictures.fov_mm / SIDE_PX)
    slab = torch.from_numpy(hu[None])
    raw: dict[str, Floats] = {}
    for labels in pack.networks:
        raw |= slice_probabilities(pack, slab, spacing_mm, labels, PRECISION)
    scores = joint(pack.card, raw)
    p = {label: float(scores[label][0]) for label in LABELS}
    errors.add(ErrorShown("pictures", path.stem, (kind,) if kind else (), p), hu)
    return Shot(path.stem, kind, p, _found(pack.card, scores))


def _found(card: Card, scores: dict[str, Floats]) -> bool:
    return is_present(card, {ANY: study_probability(card, ANY, scores[ANY])}, ANY)
