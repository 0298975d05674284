"""What the verbs of the command line do and print."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from embench.core import paths
from embench.core.console import print_table
from embench.core.errors import BadInput, TrialsFailed, TryAgain
from embench.core.names import unknown
from embench.data import catalog
from embench.models.registry import find_model

if TYPE_CHECKING:
    from embench.runs.executors import Executor, Local
    from embench.runs.plan import TrialSpec
    from embench.runs.worker import Outcome


log = logging.getLogger(__name__)


def run(
    *,
    models: list[str],
    executor: Executor,
    precision: str | None,
    device: str = "auto",
    detach: bool = False,
    **asked: Any,
) -> None:
    """Run what was asked; print a summary and where the results are."""
    from embench.runs import keep, plan
    from embench.runs.request import Request, prepared_published, trials

    where = executor.device(device)
    request = Request(models=models, precision=_precision(precision, executor, where), **asked)
    if not request.tasks and not request.suite and not prepared_published(request.data or paths.data_folder()):
        log.info(
            "No published benchmark is prepared here, so this runs the built-in SYNTHETIC suite 'mini'.\n"
            "For real images: embench prepare vnc --source DIR, then embench run --task vnc-mito ..."
        )
    planned = trials(request, where)
    keep.check_room(planned)
    plan.write(planned)
    _finish(planned, executor, request.results, detach)


def _precision(asked: str | None, executor: Executor, device: str) -> Literal["fp32", "bf16"] | None:
    """Return the precision asked for; ``auto`` is the faster one on the device, which has to be of this machine."""
    if asked == "auto":
        import torch

        from embench.runs.executors import Local
        from embench.training.precision import fastest

        if not isinstance(executor, Local):
            raise BadInput("--precision auto: the trials run on other machines than this one; use fp32 or bf16")
        return fastest(torch.device(device))
    if asked is None or asked == "fp32" or asked == "bf16":
        return asked  # type: ignore[return-value]
    raise BadInput(f"--precision {asked}: use fp32, bf16 or auto")


def plan(executor: Local, precision: str | None, **asked: Any) -> list[str]:
    """Measure and print how long the trials asked for will take; return the names of their tasks."""
    from embench.core.console import duration
    from embench.runs import estimate
    from embench.runs.request import Request, choices

    device = executor.device(asked["device"])
    request = Request(precision=_precision(precision, executor, device), **_expanded(asked))
    data = request.data or paths.data_folder()
    chosen = choices(request, data)
    at_once = min(executor.at_a_time(device, request.threads), len(chosen) * request.seeds)
    lines = estimate.forecast(chosen, data, device, request.threads, request.seeds, at_once)
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
    wall = estimate.makespan(lines, at_once)
    print(
        f"{sum(line.trials for line in lines)} trials, {total / 3600:.2f} {unit}, {duration(wall)} at {at_once} a time"
    )
    if without := sorted({line.task for line in lines if line.scoring is None}):
        print(f"without the scoring of {', '.join(without)}: how large the test split is shows when it is prepared")
    if device == "cpu":
        print(
            f"measured on the CPU, {request.threads} threads per trial; long steps are extrapolated from small batches"
        )
    return list(dict.fromkeys(line.task for line in lines))


def factorial(
    *,
    pairs: Sequence[str],
    recipes: Sequence[str],
    executor: Executor,
    device: str,
    precision: str | None,
    results: Path,
    **asked: Any,
) -> list[dict[str, Any]]:
    """Run every architecture under every recipe from either start; return a row per trial, for its analysis.

    Parameters
    ----------
    pairs : sequence of str
        Each ``ARCHITECTURE=RANDOM,PRETRAINED``: a name, and the models that stand for its two starts.
    recipes : sequence of str
        Names.
    executor : Executor
    device, precision : str
        As asked for.
    results : Path
    **asked
        The further fields of :class:`embench.runs.request.Request`.

    Returns
    -------
    list of dict
        ``task``, ``architecture``, ``recipe``, ``start``, ``seed``, ``score`` (NaN: diverged).
    """
    from embench.runs import plan
    from embench.runs.request import Request, trials
    from embench.scoring import results as result_files

    cells: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        architecture, equals, models = pair.partition("=")
        starts = models.split(",")
        if not (architecture and equals and len(starts) == 2 and all(starts)):
            raise BadInput(f"--pair {pair}: give ARCHITECTURE=RANDOM,PRETRAINED, as in TransUNet=transunet,retina")
        for spec, start in zip(starts, ("random", "pre-trained"), strict=True):
            if (getattr(find_model(spec), "pretraining", None) is None) != (start == "random"):
                raise BadInput(f"--pair {pair}: {spec} does not start {start}; the random one comes first")
            if spec in cells:
                raise BadInput(f"--pair {pair}: {spec} is in two cells")
            cells[spec] = (architecture, start)
    if len(pairs) != 2 or len({architecture for architecture, _ in cells.values()}) != 2:
        raise BadInput(f"--pair: {len(pairs)} given; a factorial has two architectures of different names")
    if len(set(recipes)) != 2:
        raise BadInput(f"--recipes {','.join(recipes)}: give two")
    where = executor.device(device)
    asked = {"models": list(cells), "precision": _precision(precision, executor, where), **_expanded(asked)}
    planned = [
        (name, trial) for name in recipes for trial in trials(Request(recipe=name, results=results, **asked), where)
    ]
    plan.write([trial for _, trial in planned])
    _finish([trial for _, trial in planned], executor, results, detach=False)
    rows = []
    for recipe, trial in planned:
        architecture, start = cells[trial.model]
        score = result_files.load(trial.path, trial.results_folder).score
        levels = {"architecture": architecture, "recipe": recipe, "start": start}
        rows.append(
            {"task": trial.task, **levels, "seed": trial.seed, "score": float("nan") if score is None else score}
        )
    return rows


def _expanded(asked: dict[str, Any]) -> dict[str, Any]:
    """Let ``tasks`` name suites as well."""
    named = [task for name in asked["tasks"] for task in catalog.SUITES.get(name, (name,))]
    return {**asked, "tasks": list(dict.fromkeys(named))}


def status(folder: Path, as_json: bool) -> None:
    """Print where the planned trials stand."""
    import json

    from embench.runs import status

    found = status.standings(folder)
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
    print(f"{folder}: {status.summary(found)}")
    if any(standing.state == "failed" or standing.stopped for standing in found):
        print(f"next: embench retry --results {folder}")


def retry(folder: Path, executor: Executor, models: Sequence[str], diverged: bool, detach: bool) -> None:
    """Run again what failed or was stopped."""
    from embench.runs import status

    found = status.standings(folder)
    again = status.to_retry(found, models, diverged=diverged)
    left = sum(standing.diverged for standing in found) if not diverged else 0
    if left:
        log.info("%d diverged trials stay as they are: a result too (with --diverged they are run again)", left)
    if not again:
        print(f"{folder}: nothing to run again ({status.summary(found)})")
        return
    for device in {trial.device for trial in again}:
        executor.device(device)
    for trial in again:
        if kept := status.set_aside(trial):
            log.info("%s: its result is kept as %s", trial.label, kept)
    _finish(again, executor, folder, detach)


def doctor(executor: str | None, address: str | None, deep: bool, **asked: Any) -> bool:
    """Print what works here and what does not; return whether all that was asked for can."""
    from embench.runs import doctor, executors
    from embench.runs.request import Request

    if executor not in (None, *executors.NAMES):
        raise unknown("executor", executor, executors.NAMES)
    failed = 0
    for check in doctor.checks(doctor.Asked(Request(**asked), executor, address, deep)):
        print(f"{check.state:<4}  {check.what}: {check.found}", flush=True)
        failed += check.state == "fail"
    return not failed


def permuted_labels(task: str, model: str, seeds: int, seed: int, data: Path | None) -> None:
    """Train on right and on permuted labels; print every score, and whether the second are at chance.

    Raises
    ------
    BadInput
        As :func:`embench.runs.label_permutation.run`; or, after printing, a claim that does not hold.
    """
    from embench.runs import label_permutation

    def tell(kind: str, number: int, score: float) -> None:
        print(f"{model} on {task}, seed {number}, {kind} labels: IoU {score:.4f}", flush=True)

    found = label_permutation.run(task, model, seeds, seed, data, report=tell)
    chance = f"chance at most {found.chance:.4f}"
    claims = {
        f"right labels score above chance: mean {fmean(found.right):.4f}, {chance}": found.above,
        f"permuted labels score at chance: mean {fmean(found.permuted):.4f}, {chance}": found.at_chance,
    }
    for claim, holds in claims.items():
        print(f"{'holds' if holds else 'FAILS'}  {claim}")
    if failed := [claim for claim, holds in claims.items() if not holds]:
        raise BadInput([f"does not hold: {claim}" for claim in failed])


def _finish(planned: Sequence[TrialSpec], executor: Executor, folder: Path, detach: bool) -> None:
    """Run the trials that have no result yet; print the scores of all, then say what did not work.

    With ``detach`` they are only submitted.

    Raises
    ------
    TrialsFailed, BadInput, TryAgain
        For the trials without a result, the first of these that applies.
    """
    from embench.core import locks
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
    for trial in planned:
        if not trial.path.exists():
            continue
        result = results.load(trial.path, trial.results_folder)
        scores[result.task, result.row].append(result.score)
    header = ("task", "model", "seeds", "mean IoU", "min", "max")
    print_table(header, [_summary(*key, values) for key, values in sorted(scores.items())])
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


def _alike(trials: Sequence[TrialSpec]) -> list[list[TrialSpec]]:
    """Return the trials in groups that want the same device and threads (a retry may hold several plans)."""
    groups: dict[tuple[str, int], list[TrialSpec]] = defaultdict(list)
    for trial in trials:
        groups[trial.device, trial.threads].append(trial)
    return list(groups.values())


def _faults(outcomes: Sequence[tuple[TrialSpec, Outcome]], kind: str) -> list[str]:
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
