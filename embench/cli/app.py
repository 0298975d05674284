"""The verbs, without logic: each imports what it needs when it is called, so that help is immediate."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from embench.cli import predict as predict_verbs
from embench.core.errors import BadInput, Diverged, Interrupted, TrialsFailed, TryAgain

app = typer.Typer(
    help="Does this segmentation model really beat the others on electron-microscopy data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
listing = typer.Typer(help="List models, pre-training methods, tasks, suites, recipes.", no_args_is_help=True)
board = typer.Typer(help="Build the leaderboard page from results.", invoke_without_command=True)
published = typer.Typer(help="Published checkpoints: what a file is, start from it, download it.", no_args_is_help=True)
app.add_typer(listing, name="list")
app.add_typer(published, name="weights")
app.add_typer(board, name="leaderboard")

DataFolder = Annotated[
    Path | None,
    typer.Option("--data-dir", envvar="EMBENCH_DATA", help="Folder of prepared data (default: your user data folder)."),
]
SlurmOptions = Annotated[
    list[str], typer.Option("--slurm", help="As in partition=gpu,time=4:00:00: sbatch's options; may be repeated.")
]
RayAddress = Annotated[str | None, typer.Option(help="auto or ray://HOST:PORT (default: a Ray of this machine).")]
Jobs = Annotated[int | None, typer.Option(help="Trials at a time (default: one per GPU, or by cores).")]
TaskNames = Annotated[list[str], typer.Option("--task", help="Names, comma-separated.")]
TasksOrSuites = Annotated[list[str], typer.Option("--task", "--tasks", help="Tasks or suites, comma-separated.")]
Suite = Annotated[str | None, typer.Option(help="A suite of tasks: mini, vnc, published.")]
Iterations = Annotated[int | None, typer.Option(help="Budget (default: the task's).")]
Snapshots = Annotated[int, typer.Option(help="Times a trial is scored, the last at its end.")]
RecipeName = Annotated[str | None, typer.Option(help="Train under this recipe (default: the model's own).")]
Crop = Annotated[int | None, typer.Option(help="Training crop and sliding window, pixels.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step.")]
Overlap = Annotated[float | None, typer.Option(help="Overlap of the sliding window, 0..1.")]
PrecisionName = Annotated[
    str | None, typer.Option(help="fp32, bf16, or auto: the faster one here (default: the recipe's).")
]
Checkpoints = Annotated[list[Path], typer.Option("--weights", help="Pre-trained checkpoint; may be repeated.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ExecutorName = Annotated[str, typer.Option(help="local, slurm or ray: where the trials run.")]
Detach = Annotated[bool, typer.Option("--detach", help="With slurm: submit and do not wait.")]
Threads = Annotated[int, typer.Option(help="CPU threads per trial; part of what makes a result repeatable.")]
ResultFolders = Annotated[list[Path], typer.Option("--results", help="Folder of results; may be repeated.")]


@app.command()
def run(
    model: Annotated[
        list[str], typer.Option("--model", help="Names or path/to/file.py:Class, comma-separated; all; published; ...")
    ],
    task: TaskNames = [],  # noqa: B006
    suite: Suite = None,
    seeds: Annotated[int, typer.Option(help="Trials per model and task.")] = 6,
    first_seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    iterations: Iterations = None,
    snapshots: Snapshots = 5,
    recipe: RecipeName = None,
    crop: Crop = None,
    batch_size: BatchSize = None,
    overlap: Overlap = None,
    precision: PrecisionName = None,
    weights: Checkpoints = [],  # noqa: B006
    device: Device = "auto",
    executor: ExecutorName = "local",
    slurm: SlurmOptions = [],  # noqa: B006
    address: RayAddress = None,
    detach: Detach = False,
    jobs: Jobs = None,
    threads: Threads = 1,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    data: DataFolder = None,
    save_every: Annotated[float, typer.Option(help="Seconds between training states on disk.")] = 60.0,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="On a GPU too: the same bytes every time, slower. (On a CPU always.)"),
    ] = False,
    keep_weights: Annotated[bool, typer.Option(help="Keep each trial's final weights, for predict.")] = True,
) -> None:
    """Train and score models over tasks and seeds; what is already done is skipped, what was cut short resumes."""
    from embench.cli import runs as commands
    from embench.runs import executors

    commands.run(
        models=_split(model),
        executor=executors.find_executor(executor, jobs=jobs, slurm=slurm, address=address),
        detach=detach,
        tasks=_split(task),
        suite=suite,
        seeds=seeds,
        first_seed=first_seed,
        iterations=iterations,
        snapshots=snapshots,
        recipe=recipe,
        crop=crop,
        batch_size=batch_size,
        overlap=overlap,
        precision=precision,
        weights=weights,
        device=device,
        threads=threads,
        results=results,
        data=data,
        save_every=save_every,
        deterministic=deterministic,
        keep_weights=keep_weights,
    )


@app.command()
def plan(
    model: Annotated[list[str], typer.Option("--model", help="As for run.")] = ["published"],  # noqa: B006
    task: TasksOrSuites = [],  # noqa: B006
    suite: Suite = None,
    seeds: Annotated[int, typer.Option(help="Trials per model and task.")] = 6,
    iterations: Iterations = None,
    snapshots: Snapshots = 5,
    recipe: RecipeName = None,
    crop: Crop = None,
    batch_size: BatchSize = None,
    overlap: Overlap = None,
    precision: PrecisionName = None,
    device: Device = "auto",
    jobs: Jobs = None,
    threads: Threads = 1,
    results: ResultFolders = [Path("results")],  # noqa: B006
    data: DataFolder = None,
) -> None:
    """Say before training how long trials will take on this machine, and what difference their seeds can tell apart.

    Time is measured: some steps and predictions of every model, as many at once as trials would run. What can be
    told apart follows from the spread of earlier results. Nothing is written.
    """
    from embench.cli import runs as commands
    from embench.runs import executors
    from leaderboard import cli as leaderboard

    planned = commands.plan(
        executors.Local(jobs),
        models=_split(model),
        tasks=_split(task),
        suite=suite,
        seeds=seeds,
        iterations=iterations,
        snapshots=snapshots,
        recipe=recipe,
        crop=crop,
        batch_size=batch_size,
        overlap=overlap,
        precision=precision,
        device=device,
        threads=threads,
        data=data,
    )
    print()
    leaderboard.prospects(results, planned, seeds)


@app.command()
def factorial(
    pair: Annotated[
        list[str], typer.Option("--pair", help="ARCHITECTURE=RANDOM,PRETRAINED: two models of one network; twice.")
    ] = ["UNet-ResNet50=unet-resnet50,unet-resnet50-mocov2", "TransUNet=transunet,retina"],  # noqa: B006
    recipes: Annotated[str, typer.Option(help="Two, comma-separated.")] = "unet,retina",
    task: TasksOrSuites = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="Trials per cell and task.")] = 6,
    iterations: Iterations = None,
    snapshots: Snapshots = 5,
    crop: Crop = None,
    batch_size: BatchSize = None,
    overlap: Overlap = None,
    precision: PrecisionName = None,
    weights: Checkpoints = [],  # noqa: B006
    device: Device = "auto",
    executor: ExecutorName = "local",
    slurm: SlurmOptions = [],  # noqa: B006
    address: RayAddress = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("factorial"),
    data: DataFolder = None,
) -> None:
    """Separate architecture, recipe and pre-training: run all eight combinations, print effects with intervals.

    Trials are those of ``run``: what is done is not done again, and all of them appear on the leaderboard.
    """
    from embench.cli import runs as commands
    from embench.core.files import check_writable
    from embench.runs import executors
    from leaderboard import cli as leaderboard

    check_writable(out)
    rows = commands.factorial(
        pairs=pair,
        recipes=_split([recipes]),
        executor=executors.find_executor(executor, jobs=jobs, slurm=slurm, address=address),
        device=device,
        results=results,
        tasks=_split(task),
        seeds=seeds,
        iterations=iterations,
        snapshots=snapshots,
        crop=crop,
        batch_size=batch_size,
        overlap=overlap,
        precision=precision,
        weights=weights,
        threads=threads,
        data=data,
    )
    leaderboard.factorial(rows, out)


@app.command()
def status(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every trial.")] = False,
) -> None:
    """Say of the planned trials what is done, running (where, how far, estimate), failed (why) and waiting."""
    from embench.cli import runs as commands

    commands.status(results, as_json)


@app.command()
def retry(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    diverged: Annotated[
        bool,
        typer.Option("--diverged", help="Diverged trials too; their results are kept in RESULTS/.diverged."),
    ] = False,
    model: Annotated[
        list[str], typer.Option("--model", help="Model files that failed trials may import: path/to/file.py:Class.")
    ] = [],  # noqa: B006
    executor: ExecutorName = "local",
    slurm: SlurmOptions = [],  # noqa: B006
    address: RayAddress = None,
    detach: Detach = False,
    jobs: Jobs = None,
) -> None:
    """Run again the planned trials that failed or were stopped, from their last saved state.

    A trial that diverged has a result, which says so on the leaderboard; on a CPU the same seed diverges again. It
    is left alone unless --diverged is given. Nothing is deleted.
    """
    from embench.cli import runs as commands
    from embench.runs import executors

    found = executors.find_executor(executor, jobs=jobs, slurm=slurm, address=address)
    commands.retry(results, found, _split(model), diverged, detach)


@app.command()
def doctor(
    model: Annotated[list[str], typer.Option("--model", help="Models that are to work here, as for run.")] = [],  # noqa: B006
    task: TaskNames = [],  # noqa: B006
    suite: Suite = None,
    seeds: Annotated[int, typer.Option(help="Trials per model and task, for the disk space.")] = 6,
    weights: Checkpoints = [],  # noqa: B006
    device: Device = "auto",
    executor: Annotated[str | None, typer.Option(help="local, slurm or ray, where one of them has to work.")] = None,
    address: RayAddress = None,
    threads: Threads = 1,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    data: DataFolder = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash prepared data and checkpoints again.")] = False,
) -> None:
    """Say what works here and what does not, a line each, and what to do; exit 2 if what was asked for cannot work.

    Without models and tasks it looks at the waiting trials of the plans in the results folder.
    """
    from embench.cli import runs as commands

    works = commands.doctor(
        executor,
        address,
        deep,
        models=_split(model),
        tasks=_split(task),
        suite=suite,
        seeds=seeds,
        weights=weights,
        device=device,
        threads=threads,
        results=results,
        data=data,
    )
    if not works:
        raise typer.Exit(2)


@app.command()
def prepare(
    task: Annotated[str | None, typer.Argument(help="A task, an unlabelled set, or a data set: vnc, mini, ...")] = None,
    source: Annotated[
        list[Path],
        typer.Option(help="Folder, zip or files as published; may be repeated. Default: what was fetched."),
    ] = [],  # noqa: B006
    force: Annotated[bool, typer.Option(help="Prepare again what is there.")] = False,
    name: Annotated[str | None, typer.Option(help="Your own images, prepared as a task of this name.")] = None,
    images: Annotated[Path | None, typer.Option(help="With --name: folder or file of images.")] = None,
    masks: Annotated[Path | None, typer.Option(help="With --name: folder or file of masks.")] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(help="With --name: a folder of images without masks, cut into a set for pre-training."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="With --name: 0:background,1:er, values as in the masks.")] = None,
    split: Annotated[
        str | None, typer.Option(help="With --name: last-20% (the default), or a .csv file (name,split[,first,last]).")
    ] = None,
    scoring: Annotated[str | None, typer.Option(help="With --name: 2d (the default), stack or orthoplane.")] = None,
    voxel_size: Annotated[str | None, typer.Option(help="With --name: nanometres z,y,x, as in 16,8,8.")] = None,
    grey_range: Annotated[
        str | None, typer.Option(help="With --name: LOW,HIGH or auto, for images that are not 8-bit.")
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="With --name: name (the default) or number: how masks find their images.")
    ] = None,
    mask_suffix: Annotated[
        str | None, typer.Option(help="With --name: what a mask's name has behind its image's, as in _mask.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="With --name and two classes: mask values above it are the second; recorded.")
    ] = None,
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="With --name: take test images that are in training too.")
    ] = False,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Read files that are large beside the memory of this machine.")
    ] = False,
    data: DataFolder = None,
) -> None:
    """Bring a data set, or your own images and masks, into the one prepared format."""
    from embench.cli import data as data_module

    data_module.prepare(
        task,
        source,
        data,
        force,
        name=name,
        images=images,
        masks=masks,
        tiles=tiles,
        classes=classes,
        split=split,
        scoring=scoring,
        voxel_size=voxel_size,
        grey_range=grey_range,
        pair=pair,
        mask_suffix=mask_suffix,
        threshold=threshold,
        allow_duplicates=allow_duplicates,
        any_size=any_size,
    )


@app.command()
def fetch(
    task: Annotated[str, typer.Argument(help="A task or data set: cremi, guay, kasthuri, perez, urocell, ...")],
    insecure_host: Annotated[
        list[str], typer.Option(help="Do not check the TLS certificate of this host; only for files of known SHA-256.")
    ] = [],  # noqa: B006
    data: DataFolder = None,
) -> None:
    """Download the published files of a data set, checked against their SHA-256."""
    from embench.cli import data as data_module

    data_module.fetch(task, data, insecure_host)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(help="A prepared task or unlabelled set.")], data: DataFolder = None
) -> None:
    """Hash prepared data again and compare with the recorded hash."""
    from embench.cli import data as data_module

    data_module.verify(name, data)


@app.command()
def pretrain(
    method: Annotated[str, typer.Argument(help="retina, mocov2, ...; see: embench list methods.")],
    data_name: Annotated[str, typer.Option("--data", help="An unlabelled set, or a folder of images.")],
    model: Annotated[
        str | None,
        typer.Option(help="A name or path/to/file.py:Class that is to start from it (default: the published)."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="What the network itself starts from, where it does (default: as imported).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images (default: the published number).")] = None,
    batch_size: BatchSize = None,
    crop: Annotated[int | None, typer.Option(help="Pixels a side.")] = None,
    scale: Annotated[str | None, typer.Option(help="full or tiny (default: the data set's).")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    learning_rate: Annotated[float | None, typer.Option(help="At the start (default: as published).")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    accumulate: Annotated[int, typer.Option(help="Parts into which a device's batch is cut to save memory.")] = 1,
    ema: Annotated[
        float, typer.Option(help="Decay of a moving average of the parameters, which is written; 0: none.")
    ] = 0.0,
    views: Annotated[
        str | None, typer.Option(help="host or device: where images are augmented (default: by device).")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Let torch compile the network first.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that read and augment images.")] = None,
    save_every: Annotated[float, typer.Option(help="Seconds between training states on disk.")] = 300.0,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="On a GPU too: the same bytes every time, slower. (On a CPU always.)"),
    ] = False,
    keep_every: Annotated[int, typer.Option(help="Epochs between checkpoints and example pictures that stay.")] = 20,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (default: all cores).")] = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write (default: where run looks for it).")] = None,
    force: Annotated[bool, typer.Option(help="Replace a checkpoint made with other settings.")] = False,
    data: DataFolder = None,
) -> None:
    """Pre-train on unlabelled images and write a checkpoint with its card; a cut-short one resumes."""
    from embench.cli import models

    models.pretrain(
        method,
        data_name,
        model=model,
        weights=weights,
        epochs=epochs,
        batch_size=batch_size,
        crop=crop,
        scale=scale,
        seed=seed,
        learning_rate=learning_rate,
        precision=precision,
        accumulate=accumulate,
        ema=ema,
        views=views,
        compile=compile,
        workers=workers,
        save_every_seconds=save_every,
        deterministic=deterministic,
        keep_every=keep_every,
        device=device,
        threads=threads,
        out=out,
        force=force,
        data_folder=data,
    )


@app.command()
def export(
    task: Annotated[str, typer.Argument(help="A prepared task.")],
    layout: Annotated[str, typer.Option("--format", help="nnunet or folder.")],
    out: Annotated[Path, typer.Option(help="A new or empty folder.")],
    data: DataFolder = None,
) -> None:
    """Write a task's training images and masks, and its test images without masks, for other tools."""
    from embench.cli import data as data_module

    data_module.export(task, layout, out, data)


@app.command()
def score(
    task: Annotated[str, typer.Option(help="A prepared task.")],
    predictions: Annotated[Path, typer.Option(help="Folder of label maps, named as embench export names the images.")],
    name: Annotated[str | None, typer.Option(help="Of the model that made them: its row on the leaderboard.")] = None,
    seed: Annotated[int, typer.Option(help="Tells several predictions of one model apart.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Only check the files; write nothing.")] = False,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    data: DataFolder = None,
) -> None:
    """Score predictions made elsewhere; every file is checked first, and every fault is named at once."""
    from embench.cli import results as results_module

    results_module.score(task, predictions, name, seed, check, results, data)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="A label map, or a folder of them: any readable format.")],
    truth: Annotated[Path, typer.Argument(help="The true one, or a folder with files of the same names.")],
    voxel_size: Annotated[str | None, typer.Option(help="Z,Y,X in nm (default: what the files state).")] = None,
    classes: Annotated[str | None, typer.Option(help="As in 0:background,1:er (default: every value but 0).")] = None,
    metrics: Annotated[str, typer.Option(help="Names, comma-separated, or all.")] = "all",
    tolerance: Annotated[float | None, typer.Option(help="Of surfaces, nm (default: two pixels).")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="Label maps hold objects, not classes.")] = False,
    sections: Annotated[bool, typer.Option("--sections", help="Each section of a stack is an image.")] = False,
    smallest: Annotated[float, typer.Option(help="Objects below this many nm² (nm³) are no instances.")] = 0.0,
    as_json: Annotated[Path | None, typer.Option("--json", help="Write all scores to this file.")] = None,
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Write the scores of every image to this file.")] = None,
) -> None:
    """Score label maps of any tool against the truth: every metric, in nanometres, without a task."""
    from embench.cli import evaluate as evaluate_module

    evaluate_module.evaluate(
        prediction,
        truth,
        as_json,
        as_csv,
        voxel_size=voxel_size,
        classes=classes,
        metrics=_split([metrics]),
        tolerance=tolerance,
        instances=instances,
        sections=sections,
        smallest=smallest,
    )


@app.command()
def submit(
    result: Annotated[list[Path], typer.Argument(help="Result files (seed-N.json), or folders of them.")],
    results: Annotated[Path, typer.Option(help="The leaderboard's folder of results, tracked by git.")] = Path(
        "results"
    ),
    check: Annotated[bool, typer.Option("--check", help="Only check the files; write nothing.")] = False,
) -> None:
    """Check results and copy them into a git-tracked folder, for a pull request; nothing in them is run."""
    from embench.cli import results as results_module

    results_module.submit(result, results, check)


@app.command()
def review(
    head: Annotated[str, typer.Argument(help="The commit of a pull request.")],
    base: Annotated[str, typer.Option(help="The commit that it is to be merged into.")] = "HEAD",
    results: Annotated[Path, typer.Option(help="The leaderboard's folder of results, in its clone.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="A new folder, for the results that it adds.")] = Path("added"),
) -> None:
    """Check that a pull request adds valid results and changes nothing else; nothing of it is checked out or run."""
    from embench.cli import results as results_module

    results_module.review(head, base, results, out)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A task.")], data: DataFolder = None) -> None:
    """Print everything known of a task."""
    from embench.cli import data as data_module

    data_module.show(name, data)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A row: model, or model+recipe.")],
    b: Annotated[str, typer.Argument(help="Another row.")],
    task: TaskNames = [],  # noqa: B006
    results: ResultFolders = [Path("results")],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    margin: Annotated[float | None, typer.Option(help="Say who is worse by less than this, as 0.01.")] = None,
    measure: Annotated[str, typer.Option(help="score or average_precision.")] = "score",
) -> None:
    """Compare two rows per task: medians, spread, Mann-Whitney U with the paper's stars."""
    from leaderboard import comparison

    comparison.compare(results, a, b, _split(task) or None, as_json, margin, measure)


@app.command()
def controls(
    repeats: Annotated[int, typer.Option(help="Simulated comparisons or boards of each.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the simulation, or of the permutation.")] = 0,
    labels: Annotated[
        str | None, typer.Option(metavar="TASK", help="Train on masks of other images instead: the score is chance.")
    ] = None,
    model: Annotated[str, typer.Option(help="With --labels: what is trained.")] = "transunet",
    seeds: Annotated[int, typer.Option(help="With --labels: trials on right and on permuted masks.")] = 3,
    data: DataFolder = None,
) -> None:
    """Check the board on simulated scores whose truth is known, or (--labels) the harness on masks that do not fit."""
    if labels is not None:
        from embench.cli import runs as commands

        commands.permuted_labels(labels, model, seeds, seed, data)
        return
    from leaderboard import cli as leaderboard

    leaderboard.controls(repeats, seed)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A result file.")], b: Annotated[Path, typer.Argument(help="Another.")]
) -> None:
    """Say why two results may or may not be compared, from their fingerprints."""
    from leaderboard import cli as leaderboard

    obstacles, circumstances = leaderboard.diff(a, b)
    print(
        "\n".join(obstacles and ["these results may not be compared:", *obstacles]) or "these results may be compared"
    )
    print("\n".join(circumstances and ["they also differ in:" if obstacles else "they differ in:", *circumstances]))


@board.callback()
def leaderboard_default(
    context: typer.Context,
    results: ResultFolders = [Path("results")],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("site"),
    data: DataFolder = None,
) -> None:
    """Build the static site; the same as ``leaderboard build``."""
    if context.invoked_subcommand is None:
        leaderboard_build(results, out, data)
        return
    sources = {name: context.get_parameter_source(name) for name in ("results", "out", "data")}
    if given := [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]:
        command = context.invoked_subcommand
        names = ", ".join("--data-dir" if name == "data" else f"--{name}" for name in given)
        raise BadInput(f"leaderboard: {names} before {command} does nothing; write it behind: leaderboard {command} …")


@board.command("build")
def leaderboard_build(
    results: ResultFolders = [Path("results")],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("site"),
    data: DataFolder = None,
) -> None:
    """Build the static site."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its processes share the processors; read when numpy loads
    from leaderboard import cli as leaderboard

    print(f"leaderboard: {leaderboard.build(results, out, data)}")


@board.command("serve")
def leaderboard_serve(
    site: Annotated[Path, typer.Option(help="Folder of a built site.")] = Path("site"),
    port: Annotated[int, typer.Option(help="Of this machine alone (127.0.0.1).")] = 8000,
) -> None:
    """Serve a built site to a browser on this machine."""
    from embench.cli import serve

    serve.serve(site, port)


@board.command("register")
def leaderboard_register(
    task: Annotated[list[str], typer.Argument(help="Prepared tasks.")],
    results: Annotated[Path, typer.Option(help="The leaderboard's folder of results.")] = Path("results"),
    data: DataFolder = None,
) -> None:
    """Note the test sets of prepared tasks in registry.json, by which results are checked from then on."""
    from embench.cli import results as results_module

    results_module.register_test_sets(_split(task), results, data)


@board.command("export")
def leaderboard_export(
    results: ResultFolders = [Path("results")],  # noqa: B006
    track: Annotated[str, typer.Option("--board", help="published, open or synthetic.")] = "published",
    layout: Annotated[
        str | None,
        typer.Option(help="table-1 (default), figure-3a, figure-3b (default with --figure) or figure-s1."),
    ] = None,
    style: Annotated[str, typer.Option(help="markdown, latex, csv or json.")] = "markdown",
    runs: Annotated[int | None, typer.Option(help="Take the first so many seeds (the paper: 3; default: all).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it into this .pdf, .svg or .png instead.")] = None,
) -> None:
    """Print a board in a layout of the paper, or draw it."""
    from leaderboard import paper

    if figure:
        print(f"figure: {paper.figure(results, figure, track, layout or 'figure-3b', runs)}")  # type: ignore[arg-type]
        return
    print(paper.export(results, track, style, layout or "table-1", runs), end="")  # type: ignore[arg-type]


@published.command("inspect")
def weights_inspect(file: Annotated[Path, typer.Argument(help="A checkpoint, published or ours.")]) -> None:
    """Say what a checkpoint is; nothing in it is executed."""
    from baselines import cli as baselines

    baselines.inspect(file)


@published.command("import")
def weights_import(
    file: Annotated[Path, typer.Argument(help="A published checkpoint: .pt, .pth, .pth.tar or .npz.")],
    data_name: Annotated[
        str | None,
        typer.Option("--data", help="The set it was trained on, as in cem500k (default: imagenet or unknown)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Checkpoint to write (default: where run looks for it).")] = None,
    norms: Annotated[str | None, typer.Option(help="MEAN,STD of 0..1 grey values, where the file has none.")] = None,
    force: Annotated[bool, typer.Option(help="Replace another checkpoint.")] = False,
    data: DataFolder = None,
) -> None:
    """Make a published pre-training a checkpoint that models start from."""
    from baselines import cli as baselines

    baselines.import_(file, data_name, out, norms, data, force)


@published.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="mocov2-cem500k or imagenet-r50-vit-b16.")], data: DataFolder = None
) -> None:
    """Download a checkpoint that has a public address."""
    from baselines import cli as baselines

    baselines.fetch(name, data)


@listing.command("models")
def list_models() -> None:
    """Print the model adapters."""
    from embench.cli import models

    models.list_models()


@listing.command("methods")
def list_methods() -> None:
    """Print the pre-training methods."""
    from embench.cli import models

    models.list_methods()


@listing.command("tasks")
def list_tasks(data: DataFolder = None) -> None:
    """Print the tasks and whether they are prepared here."""
    from embench.cli import data as data_module

    data_module.list_tasks(data)


@listing.command("suites")
def list_suites() -> None:
    """Print the suites."""
    from embench.data.catalog import SUITES

    for name, tasks in SUITES.items():
        print(f"{name}: {', '.join(tasks)}")


@listing.command("recipes")
def list_recipes() -> None:
    """Print the recipes."""
    from embench.cli import models

    models.list_recipes()


app.command("predict")(predict_verbs.predict)
listing.command("trained")(predict_verbs.list_trained)


def main() -> None:
    """Run the command line: 0 done, 1 diverged or a fault in code, 2 bad input (a line each), 75 again, 130 Ctrl-C."""
    import logging

    from embench.core import signals

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with signals.raised():
            app(standalone_mode=True)
    except BadInput as error:
        for line in error.lines:
            print(f"embench: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except TryAgain as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(75) from None
    except Interrupted as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(signals.exit_status(error.number)) from None
    except TrialsFailed as error:
        print(f"embench: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Diverged as error:
        print(f"embench: {error}; what was saved before is kept", file=sys.stderr)
        raise SystemExit(1) from None


def _split(values: list[str]) -> list[str]:
    return [name for value in values for name in value.split(",") if name]
