"""Verbs on trained networks: predict images, look at predictions, package a network."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

from pathlib import Path
from typing import Annotated, Any

import typer

from embench.cli.apps import DataFolder, app, listing
from embench.core.errors import BadInput


@app.command()
def predict(
    names: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT_OR_WEIGHTS... INPUT",
            help="One network or several (result files or kept weights), then what to segment: an image, a folder of "
            "sections, TIFF, NIfTI, NRRD, MRC, HDF5 (file.h5:path), OME-Zarr.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Where to: .png, .tif, .ome.tif, .nii.gz, .h5, .mrc, .zarr, or a folder of pictures."),
    ],
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Probabilities instead of labels.")] = False,
    doubt: Annotated[
        str | None, typer.Option(help="Also a map of doubt: entropy, or spread (between several networks).")
    ] = None,
    instances: Annotated[
        str | None, typer.Option(help="Also numbered objects and their sizes (CSV): components or watershed.")
    ] = None,
    min_size: Annotated[float, typer.Option(help="Smallest object, in nm³ (nm² for a single section).")] = 0.0,
    flips: Annotated[bool, typer.Option("--flips", help="Average over mirrored images.")] = False,
    tile: Annotated[
        int | None, typer.Option(help="Look through windows of so many pixels (default: recipe's).")
    ] = None,
    tile_overlap: Annotated[float | None, typer.Option(help="Overlap of windows, 0..1 (default: recipe's).")] = None,
    voxel_size: Annotated[str | None, typer.Option(help="Z,Y,X in nm, where the image states none.")] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Bring the image to the training voxel size.")] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="Take another voxel size as it is.")] = False,
    grey_range: Annotated[
        str | None, typer.Option(help="How 16-bit or float grey becomes 8-bit: auto, or LOW,HIGH.")
    ] = None,
    zarr: Annotated[str, typer.Option(help="Version of OME-Zarr outputs: 0.5 or 0.4.")] = "0.5",
    each: Annotated[bool, typer.Option("--each", help="Every file of a folder by itself, into a folder.")] = False,
    model: Annotated[str | None, typer.Option(help="FILE.py:Class, for a network of a model of your own.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes that share the work, on all GPUs.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads a process (default: as in the trial).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there, begin anew.")] = False,
    data: DataFolder = None,
) -> None:
    """Segment images with trained networks: any size, within bounded memory; what was cut short resumes."""
    from embench.core.console import print_table
    from embench.prediction import batch
    from embench.prediction.predict import Options

    if len(names) < 2:
        raise BadInput("predict: name a result or weights, then the image: embench predict RESULT.json IMAGE --out OUT")
    *networks, image = names
    options = Options(
        probabilities=probabilities,
        doubt=_one_of("--doubt", doubt, ("entropy", "spread")),
        instances=_one_of("--instances", instances, ("components", "watershed")),
        smallest=min_size,
        flips=flips,
        tile=tile,
        tile_overlap=tile_overlap,
        resample=resample,
        as_is=as_is,
        grey_range=_range(grey_range),
        voxel_size=_numbers("--voxel-size", voxel_size, 3) if voxel_size else None,
        zarr=_one_of("--zarr", zarr, ("0.5", "0.4")),
        model=model,
        device=device,
        threads=threads,
    )
    cards = batch.predict(networks, image, out, options, each=each, jobs=jobs, overwrite=overwrite, data=data)
    rows = [
        (
            str(path),
            " x ".join(map(str, card["shape"])),
            f"{card['seconds']:.1f}",
            f"{card['megavoxels_per_second']:.3g}",
            f"{card['peak_memory_bytes'] / 2**20:.0f}",
            "" if card["objects"] is None else str(card["objects"]),
        )
        for path, card in cards
    ]
    print_table(("output", "voxels ZYX", "seconds", "Mvoxel/s", "peak MiB", "objects"), rows)


@app.command()
def view(
    paths: Annotated[list[Path], typer.Argument(metavar="PREDICTION...", help="What predict wrote; or result files.")],
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("view"),
    image: Annotated[Path | None, typer.Option(help="The image, where it is no longer where it was.")] = None,
    grey_range: Annotated[str | None, typer.Option(help="Of an image that is not 8-bit: auto, or LOW,HIGH.")] = None,
    data: DataFolder = None,
) -> None:
    """Look at predictions over their images: a page that needs no network."""
    from embench.prediction.view import write_page

    page = write_page(paths, out, image=image, grey_range=_range(grey_range), data=data)
    print(f"open in a browser: {page}")


@app.command()
def package(
    what: Annotated[Path, typer.Argument(metavar="RESULT", help="A result, kept weights; for croissant a task.")],
    out: Annotated[Path, typer.Option(help="A .zip for bioimageio, a folder for huggingface, a .json for croissant.")],
    form: Annotated[str, typer.Option("--format", help="bioimageio, huggingface or croissant.")] = "bioimageio",
    author: Annotated[list[str], typer.Option(help="Who made it; may be repeated.")] = [],  # noqa: B006
    licence: Annotated[str | None, typer.Option(help="SPDX name of the weights' licence.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the package (default: model and task).")] = None,
    model: Annotated[str | None, typer.Option(help="FILE.py:Class, for a network of a model of your own.")] = None,
    data: DataFolder = None,
) -> None:
    """Package a trained network for others (bioimage.io, Hugging Face), or describe a prepared task (Croissant)."""
    from embench.core.names import unknown
    from embench.core.paths import prepared_path
    from embench.prediction import batch, packages

    if form == "croissant":
        from embench.data.croissant import write_croissant
        from embench.data.store import Prepared

        if out.exists():
            raise BadInput(f"{out}: exists; choose another --out")
        with Prepared(prepared_path(str(what), data)) as prepared:
            write_croissant(out, prepared)
    elif form in packages.FORMATS:
        about = packages.About(tuple(author), licence, name, model, data)
        packages.pack(batch.find_network(what, data), out, about, form)
    else:
        raise unknown("format", form, (*packages.FORMATS, "croissant"))
    print(f"{form}: {out}")


@listing.command("trained")
def list_trained(data: DataFolder = None) -> None:
    """Print the networks whose final weights are kept, with where they are."""
    from embench.core.console import print_table
    from embench.models import trained

    rows = [
        (
            str(each.card.task["name"]),
            each.card.row,
            str(each.card.seed),
            "" if each.card.score is None else f"{each.card.score:.4f}",
            f"{each.path.stat().st_size / 1e6:.1f}",
            each.card.licence,
            str(each.path),
        )
        for each in trained.every(data)
    ]
    print_table(("task", "model", "seed", "IoU", "MB", "licence", "weights"), rows)


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    if value is not None and value not in allowed:
        raise BadInput(f"{option} {value}: use {' or '.join(allowed)}")
    return value


def _range(text: str | None) -> Any:
    return text if text in (None, "auto") else _numbers("--grey-range", text, 2)


def _numbers(option: str, text: str | None, count: int) -> Any:
    try:
        numbers = tuple(float(part) for part in (text or "").split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(abs(number) < 1e300 for number in numbers):
        example = "50,4.6,4.6" if count == 3 else "0,4095"
        raise BadInput(f"{option} {text}: expected {count} numbers, as in {example}")
    return numbers
