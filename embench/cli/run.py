"""Verbs on runs: run, estimate, factorial, status, retry, doctor."""

# No `from __future__ import annotations`: typer would evaluate every annotation's text, a sixth of the time of help.

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from embench.cli.apps import DataFolder, app
from embench.cli.verbs import split, verb
from embench.core import paths
from embench.core.errors import BadInput, TrialsFailed, TryAgain
from embench.runs.options import ExecutorOptions, RunRequest

if TYPE_CHECKING:
    from embench.runs.executors import Executor
    from embench.runs.plan import TrialSpec
    from embench.runs.worker import Outcome

log = logging.getLogger(__name__)

Detach = Annotated[bool, typer.Option("--detach", help="With slurm: submit and do not wait.")]


@verb(
    app,
    examples="""
  embench run --model published --task vnc-mito --seeds 6
  embench run --model mymodel.py:MyNetwork --task my-er --seeds 3 --iterations 500""",
)
def run(request: RunRequest, on: ExecutorOptions, detach: Detach = False) -> None:
    """Train and score models over tasks and seeds. Finished trials are skipped, interrupted ones resume."""
    from embench.core.paths import data_folder
    from embench.data import catalog, summary
    from embench.runs import keep, plan
    from embench.runs.request import trials

    if not request.models:
        raise BadInput("--model: say which models to run; see: embench list models")
    executor = _executor(on)
    device = executor.device(request.device)
    request = replace(request, precision=settled_precision(request.precision, executor, device))
    if not request.tasks and not request.suite and not any((request.data or data_folder()).glob("*.h5")):
        log.info(
            "No published benchmark is prepared here, so this runs the built-in SYNTHETIC suite 'mini'.\n"
            "For real images: embench prepare vnc --source DIR, then embench run --task vnc-mito ..."
        )
    planned = trials(request, device)
    for task in dict.fromkeys(trial.task for trial in planned):
        with catalog.open_prepared(task, request.data) as prepared:
            for line in summary.warnings(prepared.task, prepared.card):
                log.warning("%s: %s", task, line)
    keep.check_room(planned)
    plan.write(planned)
    _finish(planned, executor, request.results, detach)


@verb(app, without={"first_seed", "init_from", "deterministic", "save_every", "results"})
def estimate(
    request: RunRequest,
    jobs: Annotated[int | None, typer.Option(help="Trials at a time (default: one per GPU, or by cores).")] = None,
) -> None:
    """Estimate how many hours trials take on this machine, before training.

    Some steps and predictions of every model are timed, as many at once as trials would run. Nothing is written.
    """
    from embench.core.console import duration, print_table
    from embench.core.paths import data_folder
    from embench.runs.estimate import forecast, makespan
    from embench.runs.executors import Local
    from embench.runs.request import choices

    executor = Local(jobs)
    device = executor.device(request.device)
    precision = settled_precision(request.precision, executor, device)
    request = replace(request, models=request.models or ["published"], precision=precision)
    data = request.data or data_folder()
    chosen = choices(request, data)
    at_once = min(executor.at_a_time(device, request.threads), len(chosen) * request.seeds)
    lines = forecast(chosen, data, device, request.threads, request.seeds, at_once)
    header = ("task", "model", "trials", "iterations", "s/step", "training", "scoring", "trial", "all trials")
    rows = [
        (
            line.task,
            line.model,
            str(line.trials),
            str(line.iterations),
            f"{line.pace.step:.3f}",
            duration(line.training),
            "unknown" if line.scoring is None else duration(line.scoring),
            duration(line.seconds),
            duration(line.trials * line.seconds),
        )
        for line in lines
    ]
    print_table(header, rows)
    total = sum(line.trials * line.seconds for line in lines)
    unit = "GPU-hours" if device == "cuda" else "hours of one trial after another"
    wall = makespan(lines, at_once)
    print(
        f"{sum(line.trials for line in lines)} trials, {total / 3600:.2f} {unit}, {duration(wall)} at {at_once} a time"
    )
    if without := sorted({line.task for line in lines if line.scoring is None}):
        print(f"without the scoring of {', '.join(without)}: how large the test split is shows when it is prepared")
    if device == "cpu":
        print(
            f"measured on the CPU, {request.threads} threads per trial; long steps are extrapolated from small batches"
        )


@verb(app, without={"models", "recipe", "first_seed", "save_every", "deterministic"})
def factorial(
    request: RunRequest,
    on: ExecutorOptions,
    pair: Annotated[
        list[str], typer.Option("--pair", help="ARCHITECTURE=RANDOM,PRETRAINED: two models of one network; twice.")
    ] = ["UNet-ResNet50=unet-resnet50,unet-resnet50-mocov2", "TransUNet=transunet,retina"],  # noqa: B006
    recipes: Annotated[str, typer.Option(help="Two, comma-separated.")] = "unet,retina",
    out: Annotated[Path, typer.Option(help="Folder for the tables.")] = Path("factorial"),
) -> None:
    """Separate architecture, recipe and pre-training: run all eight combinations, print effects with intervals.

    Trials are those of ``run``: finished ones are skipped, and all of them appear on the leaderboard.
    """
    from embench.core.files import check_writable
    from embench.runs import plan
    from embench.runs.factorial import design
    from embench.runs.request import trials
    from embench.scoring import results
    from leaderboard import cli as leaderboard

    check_writable(out)
    named = split([recipes])
    cells = design(pair, named)
    executor = _executor(on)
    device = executor.device(request.device)
    request = replace(request, models=list(cells), precision=settled_precision(request.precision, executor, device))
    planned = [(name, trial) for name in named for trial in trials(replace(request, recipe=name), device)]
    plan.write([trial for _, trial in planned])
    _finish([trial for _, trial in planned], executor, request.results, detach=False)
    rows = []
    for recipe, trial in planned:
        architecture, start = cells[trial.model]
        score = results.load(trial.path, trial.results_folder).score
        levels = {"architecture": architecture, "recipe": recipe, "start": start}
        rows.append(
            {"task": trial.task, **levels, "seed": trial.seed, "score": float("nan") if score is None else score}
        )
    leaderboard.factorial(rows, out)


@app.command()
def status(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, every trial.")] = False,
) -> None:
    """Say which planned trials are done, running (where, how far, time left), failed (why) and waiting."""
    import json

    from embench.core.console import print_table
    from embench.runs.status import standings, summary

    found = standings(results)
    if as_json:
        print(json.dumps([standing.facts() for standing in found], indent=1))
        return
    told = [standing for standing in found if standing.note and standing.state != "done"]
    order = ("running", "failed", "waiting")
    rows = [
        (each.state, each.trial.label, each.note) for each in sorted(told, key=lambda each: order.index(each.state))
    ]
    if rows:
        print_table(("state", "trial", "note"), rows)
    print(f"{results}: {summary(found)}")
    if any(standing.state == "failed" or standing.stopped for standing in found):
        print(f"next: embench retry --results {results}")


@verb(app)
def retry(
    on: ExecutorOptions,
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    diverged: Annotated[
        bool,
        typer.Option("--diverged", help="Diverged trials too; their results are kept in RESULTS/.diverged."),
    ] = False,
    model: Annotated[
        list[str], typer.Option("--model", help="Model files that failed trials may import: path/to/file.py:Class.")
    ] = [],  # noqa: B006
    detach: Detach = False,
    data: DataFolder = None,
) -> None:
    """Run again the planned trials that failed or were stopped, from their last saved state.

    A trial that diverged has a result, which says so on the leaderboard; on a CPU the same seed diverges again. It
    is left alone unless --diverged is given. Nothing is deleted.
    """
    from embench.runs.status import set_aside, standings, summary, to_retry

    executor = _executor(on)
    found = standings(results)
    again = to_retry(found, split(model), diverged=diverged, data=data or paths.data_folder())
    left = sum(standing.diverged for standing in found) if not diverged else 0
    if left:
        log.info("%d diverged trials stay as they are: a result too (with --diverged they are run again)", left)
    if not again:
        print(f"{results}: nothing to run again ({summary(found)})")
        return
    for device in {trial.device for trial in again}:
        executor.device(device)
    for trial in again:
        if kept := set_aside(trial):
            log.info("%s: its result is kept as %s", trial.label, kept)
    _finish(again, executor, results, detach)


@verb(app, without={"first_seed", "iterations", "evaluations", "recipe", "crop", "batch_size", "overlap", "precision"})
def doctor(
    request: RunRequest,
    executor: Annotated[str | None, typer.Option(help="local, slurm or ray, where one of them has to work.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray's address: auto or ray://HOST:PORT.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read and hash prepared data and checkpoints again.")] = False,
) -> None:
    """Say what works here and what does not, a line each, and what to do; exit 2 if what was asked for cannot work.

    Without models and tasks it looks at the waiting trials of the plans in the results folder.
    """
    from embench.core.names import unknown
    from embench.runs.doctor import Asked, checks
    from embench.runs.executors import NAMES

    if executor not in (None, *NAMES):
        raise unknown("executor", executor, NAMES)
    failed = 0
    for check in checks(Asked(request, executor, address, deep)):
        print(f"{check.state:<4}  {check.what}: {check.found}", flush=True)
        failed += check.state == "fail"
    if failed:
        raise typer.Exit(2)


def _executor(on: ExecutorOptions) -> "Executor":
    from embench.runs.executors import find_executor

    return find_executor(on.executor, jobs=on.jobs, slurm=on.slurm, address=on.address)


def settled_precision(asked: str | None, executor: "Executor", device: str) -> str | None:
    """Return the precision asked for; ``auto`` is the faster one on the device, which has to be of this machine."""
    if asked == "auto":
        import torch

        from embench.runs.executors import Local
        from embench.training.precision import fastest

        if not isinstance(executor, Local):
            raise BadInput("--precision auto: the trials run on other machines than this one; use fp32 or bf16")
        return fastest(torch.device(device))
    if asked in (None, "fp32", "bf16"):
        return asked
    raise BadInput(f"--precision {asked}: use fp32, bf16 or auto")


def _finish(planned: Sequence["TrialSpec"], executor: "Executor", folder: Path, detach: bool) -> None:
    """Run the trials that have no result yet; print the scores of all, then say what did not work.

    With ``detach`` they are only submitted.

    Raises
    ------
    TrialsFailed, BadInput, TryAgain
        For the trials without a result, the first of these that applies.
    """
    from embench.core import locks
    from embench.core.console import print_table
    from embench.runs import worker
    from embench.scoring import results

    if done := sum(trial.path.exists() for trial in planned):
        log.info("%d of %d trials are already done in %s", done, len(planned), folder)
    # a trial killed between its result and the removal of what it ran with is run again, which removes that
    waiting = [trial for trial in planned if not trial.path.exists() or worker.is_untidy(trial)]
    if detach:
        from embench.runs.executors.slurm import Slurm

        if not isinstance(executor, Slurm):
            raise BadInput("--detach: only with --executor slurm; the others run as long as this command")
        executor.submit(waiting)
        print(f"next: embench status --results {folder}")
        return
    outcomes = [pair for group in _alike(waiting) for pair in zip(group, executor.run(group), strict=True)]
    scores: dict[tuple[str, str], list[float | None]] = defaultdict(list)
    waited: dict[str, float] = {}
    for trial in planned:
        if not trial.path.exists():
            continue
        result = results.load(trial.path, trial.results_folder)
        scores[result.task, result.row].append(result.score)
        if result.seconds_waiting is not None and result.seconds_training:
            waited[f"{result.row} {result.task}"] = result.seconds_waiting / result.seconds_training
    header = ("task", "model", "seeds", "mean IoU", "min", "max")
    print_table(header, [_summary(*key, values) for key, values in sorted(scores.items())])
    if waited:
        most = max(waited, key=lambda each: waited[each])
        told = f"{fmean(waited.values()):.0%} of their time, at most {waited[most]:.0%} ({most})"
        print(f"training steps waited for data {told}")
    print(f"results: {folder}    next: embench leaderboard --results {folder} --out site")
    for kind, exception in (("error", TrialsFailed), ("bad-input", BadInput), ("try-again", TryAgain)):
        lines = _faults(outcomes, kind)
        if lines:
            raise BadInput(lines) if exception is BadInput else exception("\n".join(lines))
    held = {
        trial.label: locks.holder(trial.claim_path, trial.results_folder)
        for trial, outcome in outcomes
        if outcome is None and not trial.path.exists()
    }
    if held:
        told = ", ".join(f"{label} by {holder or 'one that has just ended'}" for label, holder in held.items())
        raise TryAgain(f"{len(held)} trials are held by other processes: {told}; run the same command again later")


def _alike(trials: Sequence["TrialSpec"]) -> list[list["TrialSpec"]]:
    """Return the trials in groups that want the same device and threads (a retry may hold several plans)."""
    groups: dict[tuple[str, int], list[TrialSpec]] = defaultdict(list)
    for trial in trials:
        groups[trial.device, trial.threads].append(trial)
    return list(groups.values())


def _faults(outcomes: Sequence[tuple["TrialSpec", "Outcome"]], kind: str) -> list[str]:
    """Return a line per fault of a kind, with the trials that met it; a fault in code is logged with its trace."""
    from embench.runs.worker import Failure

    met: dict[Failure, list[str]] = defaultdict(list)
    for trial, outcome in outcomes:
        if isinstance(outcome, Failure) and outcome.kind == kind:
            met[outcome.model_copy(update={"host": ""})].append(trial.label)
    for failure in met:
        if failure.trace:
            log.error("%s", failure.trace)
    return [f"{', '.join(labels)}: {line}" for failure, labels in met.items() for line in failure.message.splitlines()]


def _summary(task: str, row: str, values: list[float | None]) -> tuple[str, ...]:
    known = [value for value in values if value is not None]
    diverged = f" ({len(values) - len(known)} diverged)" if len(known) < len(values) else ""
    figures = [f"{f(known):.4f}" for f in (fmean, min, max)] if known else ["–"] * 3
    return (task, row, f"{len(known)}{diverged}", *figures)
