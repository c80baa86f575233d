"""A pack on phantoms of unseen seeds: areas, detection by volume, and where its maps point; trains nothing."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from triage.errors import DataError
from triage.nn.card import Card
from triage.nn.pack import Pack
from triage.phantom import SHIFTED, VERSION, PhantomSpec, PhantomStudy, generate
from triage.phantom.profile import USUAL, Profile
from triage.records import ANY, LABELS, SUBTYPES, FloatArray
from triage.train.assessed import Assessed, assess, is_present, plain_volume
from triage.train.errors_shown import Errors, ErrorShown
from triage.train.metrics import Floats, rate
from triage.train.phantoms import spec_of
from triage.train.pointing import Hit, Pointing, hit_of, pointing
from triage.train.pool import Pool, Worker
from triage.train.seeds import trained_seeds
from triage.train.trial_records import BANDS_ML, Area, Case, PhantomTrial, area, band_of, detections

FIRST_SEEDS = {SHIFTED.name: 900_000_001, USUAL.name: 950_000_001}
"""By profile; far above every seed that is trained on."""

SPEC = spec_of(SHIFTED)
"""Whole heads; the profile is replaced."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PhantomSet:
    """Which phantoms to measure on."""

    profile: Profile
    n: int
    spec: PhantomSpec = SPEC

    @property
    def seeds(self) -> range:
        """Of the phantoms."""
        first = FIRST_SEEDS[self.profile.name]
        return range(first, first + self.n)


@dataclass(slots=True)
class _Tally:
    """What has been seen so far; lists that grow by study."""

    slice_p: list[Floats] = field(default_factory=list)
    slice_truth: list[Floats] = field(default_factory=list)
    study_p: list[list[float]] = field(default_factory=list)
    study_truth: list[list[bool]] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    """Of each study all that bleeds; and where that is of one subtype, so that no other can have been found for it, by
    subtype."""
    hits: list[Hit] = field(default_factory=list)


def check_unseen(card: Card, phantoms: PhantomSet) -> None:
    """Refuse phantoms that the card says were trained on.

    Raises:
        DataError: The ranges of seeds meet.
    """
    for first, last in trained_seeds(card):
        if first < phantoms.seeds.stop and last >= phantoms.seeds.start:
            raise DataError(
                f"{card.name} {card.version}: trained on seeds {first} to {last}, among which are those of the test"
            )


def phantom_trial(
    pack: Pack, phantoms: PhantomSet, errors: Errors, on_progress: OnProgress, workers: int = 1
) -> PhantomTrial:
    """Measure a pack on one set of phantoms.

    Args:
        pack: What is measured.
        phantoms: On what.
        errors: Collects the worst answers.
        on_progress: Told what is done, how much of it, of how much.
        workers: Processes that make phantoms while others are judged; 0: one a core, 1: none.

    Returns:
        The figures.

    Raises:
        DataError: The pack was trained on these phantoms.
    """
    check_unseen(pack.card, phantoms)
    tally = _Tally()
    spec = replace(phantoms.spec, profile=phantoms.profile)
    text = f"phantoms, profile {phantoms.profile.name}"
    on_progress(text, 0, phantoms.n)
    with Pool(workers) as pool:
        for done, study in enumerate(pool.map(_made, ((seed, spec) for seed in phantoms.seeds)), start=1):
            _add(tally, pack, study, errors)
            on_progress(text, done, phantoms.n)
    return _summed(tally, phantoms, pack.card.thresholds.review)


def _made(job: tuple[int, PhantomSpec], _: Worker) -> PhantomStudy:
    return generate(*job)


def _add(tally: _Tally, pack: Pack, study: PhantomStudy, errors: Errors) -> None:
    volume = plain_volume(study.hu, study.positions_mm, study.spacing_mm, study.thickness_mm)
    said = assess(pack, volume, with_maps=True)
    truth, labels = study.slice_labels(), study.labels()
    tally.slice_p.append(np.stack([said.slices[label] for label in LABELS], axis=1))
    tally.slice_truth.append(truth.astype(np.float64))
    tally.study_p.append([said.studies[label] for label in LABELS])
    tally.study_truth.append([labels[label] for label in LABELS])
    review = pack.card.thresholds.review
    found = is_present(pack.card, said.studies, ANY)
    kinds = [label for label in SUBTYPES if labels[label]]
    shown = truth[:, 0]
    n_found = int((said.slices[ANY][shown] >= review).sum())
    case = Case(ANY, sum(study.volumes_ml.values()), found, int(shown.sum()), n_found)
    if kinds:
        tally.cases.append(case)
    if len(kinds) == 1:
        tally.cases.append(replace(case, label=kinds[0], stage=_stage(study)))
    tally.hits += hits_of(said, study, volume.hu)
    _show(study, said, errors)


def _show(study: PhantomStudy, said: Assessed, errors: Errors) -> None:
    """Offer the slices without a bleed, and of those with one where it is largest."""
    truth = study.slice_labels()
    size = np.sum([study.masks[label].sum(axis=(1, 2)) for label in SUBTYPES], axis=0)
    for k in np.flatnonzero(~truth[:, 0] | (np.arange(len(truth)) == size.argmax())):
        kinds = tuple(label for label, there in zip(LABELS, truth[k], strict=True) if there and label != ANY)
        p = {label: float(said.slices[label][k]) for label in LABELS}
        told = f"{sum(study.volumes_ml.values()):.1f} mL in all" if kinds else ""
        name = f"phantom {study.spec.profile.name} {study.seed}, slice {k + 1}"
        errors.add(ErrorShown("phantoms", name, kinds, p, told), study.hu[k].astype(np.float32))


def _stage(study: PhantomStudy) -> str:
    """Age of the largest bleed."""
    return max(study.truths, key=lambda one: one.volume_ml).stage


def hits_of(said: Assessed, study: PhantomStudy, hu: FloatArray) -> Iterator[Hit]:
    """Hold the maps of labels that are truly there against the masks.

    Args:
        said: With maps.
        study: The truth.
        hu: (n, rows, columns)

    Yields:
        A hit for each map.
    """
    kinds = [label for label in SUBTYPES if study.volumes_ml[label] > 0]
    for activation in said.maps:
        label = activation.label
        wanted = kinds if label == ANY else [label] if label in kinds else []
        if not wanted:
            continue
        bleed = np.any([study.masks[one][activation.index] for one in wanted], axis=0)
        kind = wanted[0] if len(wanted) == 1 else ""
        told = hit_of(activation, bleed, hu[activation.index], study.spacing_mm)
        yield Hit(label, kind, sum(study.volumes_ml[one] for one in wanted), *told)


def _pointings(hits: list[Hit]) -> tuple[Pointing, ...]:
    of_any = [h for h in hits if h.label == ANY]
    rows = [pointing(ANY, of_any)]
    rows += [pointing(f"{ANY}, {low:g} to {high:g} mL", [h for h in of_any if band_of(h.volume_ml) == (low, high)])
             for low, high in BANDS_ML]  # fmt: skip
    for kind in SUBTYPES:
        rows.append(pointing(f"{ANY} on {kind} alone", [h for h in of_any if h.kind == kind]))
    for kind in SUBTYPES:
        own = [h for h in hits if h.label == kind]
        rows.append(pointing(kind, own))
        rows += [pointing(f"{kind}, {low:g} to {high:g} mL", [h for h in own if band_of(h.volume_ml) == (low, high)])
                 for low, high in BANDS_ML]  # fmt: skip
    return tuple(row for row in rows if row.n or row.name == ANY)


def _summed(tally: _Tally, phantoms: PhantomSet, review: float) -> PhantomTrial:
    slice_p, slice_truth = np.concatenate(tally.slice_p), np.concatenate(tally.slice_truth) > 0
    study_p, study_truth = np.array(tally.study_p), np.array(tally.study_truth, np.bool_)
    names = np.array([str(seed) for seed in phantoms.seeds])
    of_slices = np.repeat(names, [len(p) for p in tally.slice_p])
    by_study: dict[str, Area] = {}
    by_slice: dict[str, Area] = {}
    for column, label in enumerate(LABELS):
        by_study[label] = area(study_p[:, column], study_truth[:, column], names)
        by_slice[label] = area(slice_p[:, column], slice_truth[:, column], of_slices)
    bleeds, flagged = study_truth[:, 0], study_p[:, 0] >= review
    return PhantomTrial(
        phantoms.profile.name, VERSION, phantoms.seeds.start, phantoms.n, len(slice_p), by_study, by_slice,
        int(bleeds.sum()), rate(int((flagged & bleeds).sum()), int(bleeds.sum())),
        rate(int((~flagged & ~bleeds).sum()), int((~bleeds).sum())), detections(tally.cases), _pointings(tally.hits),
    )  # fmt: skip
