"""What the verbs of the command line do and print."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from embench import store, tasks
from embench.console import print_table
from embench.errors import BadInput, Interrupted, TrialsFailed, TryAgain
from embench.model import GROUPS
from embench.names import unknown
from embench.recipe import RECIPES, WholeImage
from embench.registry import find_model, find_pretraining, model_names, pretraining_names

if TYPE_CHECKING:
    from embench.executors import Executor, Local
    from embench.ledger import Outcome
    from embench.plan import TrialSpec

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
    from embench import plan
    from embench.experiment import Request, prepared_published, trials

    where = executor.device(device)
    request = Request(models=models, precision=_precision(precision, executor, where), **asked)
    if not request.tasks and not request.suite and not prepared_published(request.data or store.data_folder()):
        log.info(
            "No published benchmark is prepared here, so this runs the built-in SYNTHETIC suite 'mini'.\n"
            "For real images: embench prepare vnc --source DIR, then embench run --task vnc-mito ..."
        )
    planned = trials(request, where)
    plan.write(planned)
    _finish(planned, executor, request.results, detach)


def _precision(asked: str | None, executor: Executor, device: str) -> Literal["fp32", "bf16"] | None:
    """Return the precision asked for; ``auto`` is the faster one on the device, which has to be of this machine."""
    if asked == "auto":
        import torch

        from embench.executors import Local
        from embench.precision import fastest

        if not isinstance(executor, Local):
            raise BadInput("--precision auto: the trials run on other machines than this one; use fp32 or bf16")
        return fastest(torch.device(device))
    if asked is None or asked == "fp32" or asked == "bf16":
        return asked  # type: ignore[return-value]
    raise BadInput(f"--precision {asked}: use fp32, bf16 or auto")


def plan(executor: Local, precision: str | None, **asked: Any) -> list[str]:
    """Measure and print how long the trials asked for will take; return the names of their tasks."""
    from embench import forecast
    from embench.executors.display import duration
    from embench.experiment import Request, choices

    device = executor.device(asked["device"])
    request = Request(precision=_precision(precision, executor, device), **_expanded(asked))
    data = request.data or store.data_folder()
    chosen = choices(request, data)
    at_once = min(executor.at_a_time(device, request.threads), len(chosen) * request.seeds)
    lines = forecast.forecast(chosen, data, device, request.threads, request.seeds, at_once)
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
    wall = forecast.makespan(lines, at_once)
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
        The further fields of :class:`embench.experiment.Request`.

    Returns
    -------
    list of dict
        ``task``, ``architecture``, ``recipe``, ``start``, ``seed``, ``score`` (NaN: diverged).
    """
    from embench import plan
    from embench import results as result_files
    from embench.experiment import Request, trials

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
        score = result_files.load(trial.path).score
        levels = {"architecture": architecture, "recipe": recipe, "start": start}
        rows.append(
            {"task": trial.task, **levels, "seed": trial.seed, "score": float("nan") if score is None else score}
        )
    return rows


def _expanded(asked: dict[str, Any]) -> dict[str, Any]:
    """Let ``tasks`` name suites as well."""
    named = [task for name in asked["tasks"] for task in tasks.SUITES.get(name, (name,))]
    return {**asked, "tasks": list(dict.fromkeys(named))}


def status(folder: Path, as_json: bool) -> None:
    """Print where the planned trials stand."""
    import json

    from embench import status

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
    from embench import status

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
    from embench import doctor, executors
    from embench.experiment import Request

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
        As :func:`embench.permuted.run`; or, after printing, a claim that does not hold.
    """
    from embench import permuted

    def tell(kind: str, number: int, score: float) -> None:
        print(f"{model} on {task}, seed {number}, {kind} labels: IoU {score:.4f}", flush=True)

    found = permuted.run(task, model, seeds, seed, data, report=tell)
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
    from embench import claim, ledger, results

    if done := sum(trial.path.exists() for trial in planned):
        log.info("%d of %d trials are already done in %s", done, len(planned), folder)
    # a trial killed between its result and the removal of what it ran with is run again, which removes that
    waiting = [trial for trial in planned if not trial.path.exists() or ledger.is_untidy(trial)]
    if detach:
        from embench.executors.slurm import Slurm

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
        result = results.load(trial.path)
        scores[result.task, result.row].append(result.score)
    header = ("task", "model", "seeds", "mean IoU", "min", "max")
    print_table(header, [_summary(*key, values) for key, values in sorted(scores.items())])
    print(f"results: {folder}    next: embench leaderboard --results {folder} --out site")
    for kind, exception in (("error", TrialsFailed), ("bad-input", BadInput), ("try-again", TryAgain)):
        lines = _faults(outcomes, kind)
        if lines:
            raise BadInput(lines) if exception is BadInput else exception("\n".join(lines))
    held = {
        trial.label: claim.holder(trial.claim_path)
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
    from embench.ledger import Failure

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


def fetch(name: str, data: Path | None, insecure_hosts: Sequence[str]) -> None:
    """Download published files; say which are verified."""
    from embench import fetch

    dataset = tasks.find_dataset(name)
    for file in fetch.fetch(dataset, data or store.data_folder(), insecure_hosts=insecure_hosts):
        state = "fetched" if file.fresh else "already here"
        print(f"{file.path}: {state}, sha256 {file.sha256} ({'verified' if file.verified else 'unverified'})")
    print(f"next: embench prepare {name}")


def prepare(task: str | None, source: Sequence[Path], data: Path | None, force: bool, **own: Any) -> None:
    """Prepare a registered task or, with a ``name`` of their own, the user's images; say what was written."""
    from embench import owndata

    given = {option: value for option, value in own.items() if value is not None}
    if (task is None) == ("name" not in given):
        raise BadInput("say what to prepare: a task (see: embench list tasks), or --name with your own images")
    if task is not None:
        if given:
            options = ", ".join(f"--{option.replace('_', '-')}" for option in given)
            raise BadInput(f"{options}: only with --name, for your own images")
        for prepared in tasks.prepare(task, source, data, force=force):
            _tell_prepared(*prepared)
        return
    if "tiles" in given:
        from embench import tiling

        if odd := given.keys() - {"name", "tiles"} or source:
            raise BadInput(f"--tiles: goes with --name alone, not with {', '.join(map(str, sorted(odd)))}")
        _tell_prepared(*tiling.prepare(given["name"], given["tiles"], data, force=force))
        return
    if "classes" not in given or len(source) > 1:
        raise BadInput("--name: give --classes 0:background,1:er and --images DIR --masks DIR (or one --source DIR)")
    asked = owndata.OwnData(**given, source=source[0] if source else None)
    _tell_prepared(*owndata.prepare(asked, data, force=force))


def _tell_prepared(name: str, path: Path, fresh: bool) -> None:
    with store.Prepared(path) as prepared:
        state = "prepared" if fresh else "already prepared"
        verified = prepared.card.get("verified")
        source = "" if verified is None else ", source verified" if verified else ", source unverified"
        print(f"{name}: {state}, {path}, hash {prepared.hash[:12]}{source}")
        for note in prepared.card.get("notes", []):
            print(f"  note: {note}")


def verify(name: str, data: Path | None) -> None:
    """Hash prepared data again."""
    with store.Prepared(store.prepared_path(name, data)) as prepared:
        if not prepared.verify():
            raise BadInput(f"{prepared.path}: the voxels do not have the recorded hash; prepare it again with --force")
        print(f"{name}: hash {prepared.hash} holds")


def pretrain(method: str, data: str, **asked: Any) -> None:
    """Pre-train and print where the checkpoint is."""
    from embench import pretraining

    print(f"checkpoint: {pretraining.run(method, data, **asked)}")


def export(name: str, layout: str, out: Path, data: Path | None) -> None:
    """Write a task for other tools; say what to do next."""
    from embench import export

    with tasks.open_prepared(name, data) as prepared:
        count = export.export(prepared, layout, out)
    print(f"{name}: {count} files in {out}; how to name and score predictions: {out / 'README.md'}")


def score(
    task: str, predictions: Path, name: str | None, seed: int, only_check: bool, results: Path, data: Path | None
) -> None:
    """Check predictions made elsewhere and, unless only that was asked for, score them."""
    from embench import submission
    from embench.files import check_writable

    if name is None and not only_check:
        raise BadInput("--name: say which model made the predictions (or give --check to check the files alone)")
    with tasks.open_prepared(task, data) as prepared:
        if name is None or only_check:
            checked = submission.check(prepared, predictions)
            print(f"{task}: {checked.files} files cover {len(checked.parts)} test images; all values are labels")
            if checked.unread:
                print(f"not read: {', '.join(checked.unread)}")
            return
        check_writable(results)
        print(submission.summary(*submission.score(prepared, predictions, name, seed, results)))
    print(f"results: {results}    next: embench leaderboard --results {results} --out site")


def submit(given: Sequence[Path], results: Path, only_check: bool) -> None:
    """Check results for a leaderboard and, unless only that was asked for, copy them in; print what to commit."""
    from embench import submit

    if only_check:
        print(f"{len(submit.check(given, results))} results may stand in {results}")
        return
    placed = submit.submit(given, results)
    for each in placed:
        print(f"{each.source} -> {results / each.place}")
    print(f"{len(placed)} results in {results}; commit them, and open a pull request:")
    print(submit.advice(placed, results))


def show(name: str, data: Path | None) -> None:
    """Print a task's facts and, where it is prepared, what its file holds."""
    task = tasks.find_task(name, data)
    for key, value in asdict(task).items():
        print(f"{key}: {value}")
    path = store.prepared_path(name, data)
    if not path.exists():
        print("prepared: no")
        return
    with store.Prepared(path) as prepared:
        print(f"prepared: {path}\nhash: {prepared.hash}\nnorms in use: {prepared.norms[0]:.8f} {prepared.norms[1]:.8f}")
        for key, value in prepared.card.items():
            print(f"{key}: {value}")
        for split in ("train", "valid", "test"):
            for volume in prepared.volumes(split):
                print(f"{split}: {volume.name} {volume.image.shape}")


def serve(site: Path, port: int) -> None:
    """Serve a built site on this machine until interrupted."""
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    if not (site / "index.html").is_file():
        raise BadInput(f"{site}: no index.html; run: embench leaderboard build --out {site}")
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(SimpleHTTPRequestHandler, directory=str(site)))
    except OSError as error:
        raise BadInput(f"--port {port}: {error.strerror}; choose another") from None
    with server:
        print(f"http://127.0.0.1:{server.server_port}/    stop with Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except Interrupted:
            print()


def list_models() -> None:
    """Print every registered adapter, group by group."""
    models = [find_model(name) for name in model_names()]
    rows = [
        (
            group,
            model.name,
            model.title,
            getattr(model, "recipe", "–"),
            getattr(model, "pretraining", None) or "none",
        )
        for group in GROUPS
        for model in models
        if model.group == group
    ]
    print_table(("group", "model", "title", "recipe", "pre-training"), rows)


def list_methods() -> None:
    """Print every registered pre-training method."""
    rows = []
    for name in pretraining_names():
        method = find_pretraining(name)
        network = f"any (default: {method.trains.name})" if method.takes_any_model else method.trains.name
        rows.append((name, method.title, network, str(method.epochs), str(method.batch_size)))
    print_table(("method", "title", "network", "epochs", "batch"), rows)


def list_tasks(data: Path | None) -> None:
    """Print every task."""
    rows = [
        (
            task.name,
            task.title,
            ", ".join(task.classes[value] for value in task.scoring.classes),
            task.scoring.planes,
            str(task.iterations),
            "yes" if store.prepared_path(task.name, data).exists() else "no",
        )
        for task in (*tasks.all_tasks(), *tasks.own_tasks(data))
    ]
    print_table(("task", "title", "scored classes", "scoring", "iterations", "prepared"), rows)


def list_recipes() -> None:
    """Print every recipe."""
    rows = [
        (
            recipe.name,
            recipe.loss,
            f"{recipe.optimiser} {recipe.learning_rate:g}",
            recipe.schedule,
            str(recipe.crop or "task's"),
            "whole image" if isinstance(recipe.inference, WholeImage) else f"window {recipe.inference.window}",
        )
        for recipe in RECIPES.values()
    ]
    print_table(("recipe", "loss", "optimiser", "schedule", "crop", "inference"), rows)
