"""Verbs on results: score, submit, compare, comparable, power, leaderboard build, serve, export."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

import os
from pathlib import Path
from typing import Annotated

import typer

from embench.cli.apps import DataFolder, DryRun, ResultFolders, TaskNames, app, board
from embench.cli.verbs import split
from embench.core.errors import BadInput


@app.command()
def score(
    task: Annotated[str, typer.Option(help="A prepared task.")],
    predictions: Annotated[Path, typer.Option(help="Folder of label maps, named as embench export names the images.")],
    name: Annotated[str | None, typer.Option(help="Of the model that made them: its row on the leaderboard.")] = None,
    seed: Annotated[int, typer.Option(help="Tells several predictions of one model apart.")] = 0,
    dry_run: DryRun = False,
    results: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    data: DataFolder = None,
    iterations: Annotated[
        int | None, typer.Option(help="Steps of the training that made the model (default: unknown, then unranked).")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The method has no randomness: this is its one result.")
    ] = False,
) -> None:
    """Score predictions made elsewhere. Every file is checked first, and every fault is named at once."""
    from embench.core.files import check_writable
    from embench.data import catalog
    from embench.scoring import external

    if name is None and not dry_run:
        raise BadInput("--name: say which model made the predictions (or give --dry-run to check the files alone)")
    with catalog.open_prepared(task, data) as prepared:
        if name is None or dry_run:
            checked = external.check(prepared, predictions)
            print(f"{task}: {checked.files} files cover {len(checked.parts)} test images; all values are labels")
            if checked.unread:
                print(f"not read: {', '.join(checked.unread)}")
            return
        check_writable(results)
        made = external.score(
            prepared, predictions, name, seed, results, iterations=iterations, deterministic=deterministic
        )
        print(external.summary(*made))
    print(f"results: {results}    next: embench leaderboard --results {results} --out site")


@app.command()
def submit(
    result: Annotated[list[Path], typer.Argument(help="Result files (seed-N.json), or folders of them.")],
    results: Annotated[Path, typer.Option(help="The leaderboard's folder of results, tracked by git.")] = Path(
        "results"
    ),
    submitter: Annotated[
        str | None, typer.Option(help="Your login where the repository is: whose rows they are.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Check results and copy them into a git-tracked folder, for a pull request. Nothing in them is run."""
    from embench.scoring import submit

    if dry_run:
        print(f"{len(submit.check(result, results, submitter))} results may stand in {results}")
        return
    placed = submit.submit(result, results, submitter)
    for each in placed:
        print(f"{each.source} -> {results / each.place}")
    print(f"{len(placed)} results in {results}; commit them, and open a pull request:")
    print(submit.advice(placed, results))


@app.command()
def review(
    head: Annotated[str, typer.Argument(help="The commit of a pull request.")],
    base: Annotated[str, typer.Option(help="The commit that it is to be merged into.")] = "HEAD",
    results: Annotated[Path, typer.Option(help="The leaderboard's folder of results, in its clone.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="A new folder, for the results that it adds.")] = Path("added"),
    submitter: Annotated[str | None, typer.Option(help="Login of who makes the request.")] = None,
) -> None:
    """Check that a pull request adds valid results and changes nothing else; nothing of it is checked out or run."""
    from embench.scoring import pull_request

    checked = pull_request.review(results, base, head, results, out, submitter)
    for each in checked:
        print(f"{each.place}: {each.result.row} on {each.result.task}, seed {each.result.seed}")
    print(f"{head} adds {len(checked)} results to {results} and changes nothing else; they are in {out}")


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
        metrics=split([metrics]),
        tolerance=tolerance,
        instances=instances,
        sections=sections,
        smallest=smallest,
    )


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="First model: its name, or model+recipe.")],
    b: Annotated[str, typer.Argument(help="Second model to compare.")],
    task: TaskNames = [],  # noqa: B006
    results: ResultFolders = [Path("results")],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    margin: Annotated[float | None, typer.Option(help="Say who is worse by less than this, as 0.01.")] = None,
    measure: Annotated[str, typer.Option(help="score, average_precision, nsd, f1_50, ...")] = "score",
) -> None:
    """Compare two models per task: medians, spread, Mann-Whitney U with the paper's stars."""
    from leaderboard import comparison

    comparison.compare(results, a, b, split(task) or None, as_json, margin, measure)


@app.command()
def comparable(
    a: Annotated[Path, typer.Argument(help="A result file.")],
    b: Annotated[Path, typer.Argument(help="Another result file.")],
) -> None:
    """Say why two results may or may not be compared."""
    from leaderboard import cli as leaderboard

    obstacles, circumstances = leaderboard.comparable(a, b)
    print(
        "\n".join(obstacles and ["these results may not be compared:", *obstacles]) or "these results may be compared"
    )
    print("\n".join(circumstances and ["they also differ in:" if obstacles else "they differ in:", *circumstances]))


@app.command()
def power(
    task: Annotated[list[str], typer.Option("--task", help="Tasks or suites, comma-separated.")] = ["published"],  # noqa: B006
    seeds: Annotated[int, typer.Option(help="Trials per model and task.")] = 6,
    results: ResultFolders = [Path("results")],  # noqa: B006
) -> None:
    """Say what difference so many seeds can tell apart, from the spread of earlier results."""
    from embench.data.catalog import SUITES
    from leaderboard import cli as leaderboard

    leaderboard.power(results, [each for name in split(task) for each in SUITES.get(name, (name,))], seeds)


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
    port: Annotated[int, typer.Option(help="Local port.")] = 8000,
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
    from embench.data import catalog
    from embench.scoring.register import register

    for name in split(task):
        with catalog.open_prepared(name, data) as prepared:
            print(f"{name}: {prepared.hash[:12]} in {register(prepared, results)}")


@board.command("export")
def leaderboard_export(
    results: ResultFolders = [Path("results")],  # noqa: B006
    track: Annotated[str, typer.Option(help="published, open or synthetic.")] = "published",
    layout: Annotated[
        str | None,
        typer.Option(help="table-1 (default), figure-3a, figure-3b (default with --figure) or figure-s1."),
    ] = None,
    style: Annotated[str, typer.Option("--format", help="markdown, latex, csv or json.")] = "markdown",
    runs: Annotated[int | None, typer.Option(help="Take the first so many seeds (the paper: 3; default: all).")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it into this .pdf, .svg or .png instead.")] = None,
) -> None:
    """Print a board in a layout of the paper, or draw it."""
    from leaderboard import paper

    if figure:
        print(f"figure: {paper.figure(results, figure, track, layout or 'figure-3b', runs)}")  # type: ignore[arg-type]
        return
    print(paper.export(results, track, style, layout or "table-1", runs), end="")  # type: ignore[arg-type]
