"""The commands of `triage-train` that make and check caches; `triage.train.cli` registers them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from triage.train.progress import Bar
from triage.train.screen import tell_cache

CacheArgument = Annotated[Path, typer.Argument(help="Folder made by prepare or phantoms.")]

PHASES = {
    "labels": "reading labels", "headers": "reading headers", "slices": "writing studies", "hashes": "hashing",
    "unchanged": "nothing to do, this cache is there already",
}  # fmt: skip


def prepare(
    images: Annotated[Path, typer.Option(help="Folder of RSNA's ID_*.dcm, or of ordinary studies.")],
    labels: Annotated[Path, typer.Option(help="RSNA's CSV, or a table with StudyInstanceUID or SOPInstanceUID.")],
    out: Annotated[Path, typer.Option(help="Folder of the cache.")],
    size_px: Annotated[
        int, typer.Option(min=32, max=1024, help="Side of a slice; 512 for recipes that window first.")
    ] = 256,
    fov_mm: Annotated[float, typer.Option(min=0, max=1000, help="Square around the head; 0: the whole image.")] = 0.0,
    slab_mm: Annotated[
        float | None, typer.Option(min=0, max=20, help="Average thin slices; default 0 for RSNA, 5 for studies.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
    salt_file: Annotated[Path | None, typer.Option(help="salt.key of an earlier cache, so that data can grow.")] = None,
) -> None:
    """Turn labels and DICOM files into a training cache; goes on where it was interrupted."""
    from triage.train.prepare import PrepareOptions, Progress
    from triage.train.prepare import prepare as make

    options = PrepareOptions(size_px=size_px, fov_mm=fov_mm, slab_mm=slab_mm, workers=workers, salt_file=salt_file)
    announced: list[Progress] = []
    with Bar("items") as bar:

        def show(p: Progress) -> None:
            if p.needed_bytes and not announced:
                announced.append(p)
                bar.say(f"{p.n_slices:,} slices, {p.needed_bytes / 1e9:,.1f} GB to write")
            more = f"{p.slices:,} slices, {p.aside} set aside" if p.slices else ""
            bar.update(PHASES[p.phase], p.done, p.total, more)

        cache = make(images, labels, out, options, show)
    tell_cache(cache)


def phantoms(
    out: Annotated[Path, typer.Option(help="Folder of the cache.")],
    studies: Annotated[int, typer.Option(min=1, help="How many heads.")] = 2000,
    first_seed: Annotated[int, typer.Option(min=0)] = 1,
    size_px: Annotated[int, typer.Option(min=32, max=1024, help="Side of a cached slice.")] = 256,
    fov_mm: Annotated[float, typer.Option(min=0, max=1000, help="Square around the head; 0: the whole image.")] = 0.0,
    image_px: Annotated[int, typer.Option(min=32, max=1024, help="Rows and columns of the image before that.")] = 256,
    profile: Annotated[
        Literal["wide", "usual", "shifted"], typer.Option(help="What heads and scanners are drawn from.")
    ] = "wide",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
) -> None:
    """Generate synthetic heads into a training cache: no patient anywhere, every pixel's truth known."""
    from triage.phantom import PROFILES
    from triage.train.cache import Frame
    from triage.train.phantoms import PhantomData, spec_of, write_phantoms

    spec = spec_of(PROFILES[profile], image_px)
    data = PhantomData(range(first_seed, first_seed + studies), Frame(size_px, fov_mm), spec)
    with Bar("heads") as bar:
        cache = write_phantoms(out, data, workers, lambda done, total: bar.update("generating", done, total))
    tell_cache(cache)


def assemble(
    parts: Annotated[list[Path], typer.Argument(help="Folders that `python -m triage.train.lent` wrote as --out.")],
    run: Annotated[Path, typer.Option(help="Folder of the run to make.")],
    cache: Annotated[Path, typer.Option(help="Folder of its cache of phantoms; made where it is missing.")],
    studies: Annotated[
        int, typer.Option(min=0, help="Phantoms of that cache; more than there were: more to calibrate and test on.")
    ] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
) -> None:
    """Make a run whole that was trained on a lent machine and came home in parts."""
    from triage.train.parcel import assemble as put_together

    with Bar("heads") as bar:
        whole = put_together(
            parts, (run, cache), studies, workers, lambda done, total: bar.update("generating", done, total)
        )
    facts = whole.facts
    print(f"{run}: {facts['epochs']} epochs, {facts['steps']} steps; weights of epoch {facts['best_epoch']}")


def verify(cache: CacheArgument) -> None:
    """Check the hash of every file of a cache."""
    from triage.train.cache import open_cache
    from triage.train.cache import verify as check

    opened, read = open_cache(cache), [0]
    with Bar("files") as bar:

        def show(_: str) -> None:
            read[0] += 1
            bar.update("hashing", read[0], len(opened.manifest.files))

        check(opened, show)
    tell_cache(opened)


def leakage(
    cache: CacheArgument,
    split: Annotated[Literal["patient", "image-random"], typer.Option()] = "patient",
    choice: Annotated[Literal["all", "above_middle_5"], typer.Option()] = "all",
    salt: Annotated[str, typer.Option(help="Of the split, as split_salt of a recipe.")] = "1",
) -> None:
    """Count patients, studies and near-duplicate slices that a split shares between its parts."""
    from triage.train.cache import open_cache
    from triage.train.choice import chosen_rows
    from triage.train.leakage import leakage as count
    from triage.train.leakage import one_line
    from triage.train.splits import split_rows

    opened = open_cache(cache)
    chosen = chosen_rows(opened.index, choice)
    parts = {name: chosen[rows] for name, rows in split_rows(opened.index.take(chosen), split, salt).items()}
    total, seen = sum(map(len, parts.values())), [0]
    with Bar("slices") as bar:

        def show(n: int) -> None:
            seen[0] += n
            bar.update("looking for near-duplicates", seen[0], total)

        print(one_line(count(opened, parts, split, show)))
