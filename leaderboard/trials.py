"""One trial as the board sees it, and what makes two trials comparable."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import nan
from pathlib import Path
from typing import Any, Literal

from embench.core.errors import BadInput
from embench.core.names import is_name
from embench.core.plugins import registered_under
from embench.data.catalog import find_task
from embench.data.task import Task
from embench.scoring import test_sets
from embench.scoring.results import result_files
from embench.scoring.schema import ONE_RESULT, Fingerprint, TrialResult, digest_of, predictions_digest
from embench.scoring.submit import place_of
from embench.training.recipe import LATER, published_recipe
from leaderboard import measures
from leaderboard.cache.results import ResultCache, ResultSummary, summarise

Kind = Literal["published", "open", "synthetic"]
KINDS: tuple[Kind, ...] = ("published", "open", "synthetic")
Measure = str
MEASURES: dict[Measure, str] = {name: each.title for name, each in measures.REGISTRY.items()}
"""What rows can be ranked by, and its title."""
MODELS = "embench.models"
"""The entry points whose names belong to registered models."""
NEAR_ZERO, CLEARLY_LARGER = 0.05, 0.1
"""A score at most the first whose tuned IoU is larger by the second is a threshold artefact."""


@dataclass(frozen=True, kw_only=True)
class Trial(ResultSummary):
    """One result file as the board sees it.

    Parameters
    ----------
    path : Path
        The result file.
    row : str
        The leaderboard row: model, recipe where it is not the model's own, and stated overrides of the recipe,
        as in ``unet-resnet50+retina@crop=96,batch=8``; behind a tilde who submitted it, where that is known.
    digest : str
        Of the fingerprint, and of the test set where that is not the usual one.
    kind : {"published", "open", "synthetic"}
    way : tuple of str
        Digests of the weights it started from, of its recipe, and of the file that its model is, if it is one.
    is_in_place : bool
        Whether the file lies where the product writes it.
    """

    path: Path
    row: str
    digest: str
    kind: Kind
    way: tuple[str, str, str]
    is_in_place: bool = True

    @property
    def column(self) -> tuple[str, str]:
        """Task and fingerprint digest: only trials of one column may be compared."""
        return self.result.task, self.digest

    @cached_property
    def score(self) -> float | None:
        """The protocol's score; ``None`` when the trial diverged."""
        return self.result.score

    @cached_property
    def tuned(self) -> float | None:
        """Mean IoU over the task's classes at the thresholds chosen on training images."""
        return mean(self._diagnostics("tuned_iou"))

    @cached_property
    def average_precision(self) -> float | None:
        """Mean average precision over the task's classes that have test pixels."""
        return mean(self._diagnostics("average_precision"))

    def value(self, measure: Measure) -> float:
        """Return a measure of the trial; NaN when it diverged, or when its file has nothing to tell it from."""
        final = self.result.final
        classes = self.result.fingerprint.scoring["classes"]
        found = None if final is None else measures.REGISTRY[measure].of(final, classes)
        return nan if found is None else found

    @property
    def artefact(self) -> bool:
        """Whether the score is near 0 only because of the threshold."""
        return (
            self.score is not None
            and self.tuned is not None
            and self.score <= NEAR_ZERO
            and self.tuned >= self.score + CLEARLY_LARGER
        )

    def _diagnostics(self, name: str) -> list[float | None]:
        final = self.result.final
        values = None if final is None else getattr(final.diagnostics, name, None)  # label maps have no scores
        return [values.get(label) for label in self.result.fingerprint.scoring["classes"]] if values else []


def read(folders: Iterable[Path]) -> tuple[list[Trial], list[str]]:
    """Read every result under ``folders``, those that were read before from the cache.

    Parameters
    ----------
    folders : iterable of Path

    Returns
    -------
    trials : list of Trial
        In order of path.
    refused : list of str
        One line per file left out, with the reason: unusable, or a trial that another file already holds.
    """
    folders = list(folders)
    trials: list[Trial] = []
    refused: list[str] = []
    places: dict[Path, tuple[Path, Path]] = {}  # each file once, where one folder lies in another
    for folder in folders:
        listed = result_files(folder)
        refused += listed.faults
        for path in listed.files:
            places.setdefault(path.resolve() if len(folders) > 1 else path, (path, folder))
    given = list(places.values())
    registries = {folder: test_sets.load(folder) for folder in folders}
    for (path, below), found in zip(given, ResultCache(folders).read(given), strict=True):
        if not isinstance(found, ResultSummary):
            refused += found
        elif fault := _impostor(found.result) or _other_test_set(found, registries[below]):
            refused += BadInput(f"{path}: {fault}").lines
        else:
            trials.append(_trial(found, path, below))
    trials, duplicates = distinct(trials)
    return trials, refused + duplicates


def _is_in_place(path: Path, below: Path, result: TrialResult) -> bool:
    try:
        return path == below / place_of(result)
    except BadInput:  # a recipe whose name is none
        return False


def _impostor(result: TrialResult) -> str | None:
    """Return why a result may not bear the name of its model: names of registered models are theirs alone."""
    if result.model.name not in registered_under(MODELS):
        return None
    made = "predictions made elsewhere" if result.status == "submitted" else "a model of one's own"
    is_own = result.status != "submitted" and not result.environment.get("source")
    return None if is_own else f"{made} under the name of the registered model {result.model.name}; name its own"


def _other_test_set(summary: ResultSummary, registry: test_sets.Registry) -> str | None:
    """Return in what a result contradicts the registered test set of its task."""
    return test_sets.fault_of(summary.result.task, summary.result.fingerprint.data_hash, summary.truth, registry)


def trial_of(result: TrialResult, path: Path) -> Trial:
    """Return the board's view of a result."""
    return _trial(summarise(result), path, path.parent)


def _trial(summary: ResultSummary, path: Path, below: Path) -> Trial:
    result = summary.result
    task = known_task(result.task)
    changed = overrides(result.recipe, task)
    own = result.pairing == "default" and not changed and result.track == "published"
    synthetic = result.synthetic or (task is not None and task.synthetic)
    weights = {"hash": result.model.weights_hash, "transfer": (result.weights or {}).get("transfer")}
    return Trial(
        **vars(summary),
        path=path,
        is_in_place=_is_in_place(path, below, result),
        row=result.row + (f"@{changed}" if changed else "") + (f"~{result.submitter}" if result.submitter else ""),
        digest=result.fingerprint.digest,
        kind="synthetic" if synthetic else "published" if own else "open",
        way=(digest_of(weights), digest_of(result.recipe), _source(result)),
    )


def _source(result: TrialResult) -> str:
    source = result.environment.get("source")
    return digest_of(source) if source else ""


def distinct(trials: Sequence[Trial]) -> tuple[list[Trial], list[str]]:
    """Give trials that may not be compared or joined different columns and rows, and refuse second files of a trial.

    Trials of one fingerprint whose counts imply different truths were not scored on one test set: all but those of the
    most common one have a column of their own. Trials of one row and column made in several ways are different models:
    those of the most common way keep the name, that of the others gets a suffix, the first digits of the weights' hash,
    of the recipe's digest, or of that of the model's file, by what differs. So whoever adds a file changes the names of
    nobody else's. Of two files of one trial the one that lies where it belongs is taken, and of label maps that are the
    same under several seeds the first.
    """
    truths = _most_common((trial.result.task, trial.digest, trial.truth) for trial in trials if trial.truth)
    trials = [
        replace(trial, digest=digest_of([trial.digest, trial.truth]))
        if trial.truth not in ("", truths.get((trial.result.task, trial.digest), trial.truth))
        else trial
        for trial in trials
    ]
    ways = _most_common((trial.row, trial.column, trial.way) for trial in trials)
    kept: dict[tuple[str, tuple[str, str], int], Trial] = {}
    refused = []
    seen: dict[tuple[str, tuple[str, str], str], Trial] = {}
    for trial in sorted(trials, key=lambda trial: not trial.is_in_place):
        differing = zip(("weights", "recipe", "code"), trial.way, ways[trial.row, trial.column], strict=True)
        suffix = "".join(f"#{what}={own[:6]}" for what, own, usual in differing if own != usual)
        named = replace(trial, row=trial.row + suffix) if suffix else trial
        key = (named.row, named.column, named.result.seed)
        if key in kept:
            refused.append(f"{trial.path}: the same trial as {kept[key].path}; keep one of them")
            continue
        if (digest := predictions_digest(named.result)) is not None:
            first = seen.setdefault((named.row, named.column, digest), named)
            if first is not named:
                refused.append(
                    f"{trial.path}: seed {named.result.seed} has the label maps of seed {first.result.seed} "
                    f"({first.path}); {ONE_RESULT}"
                )
                continue
        kept[key] = named
    order = {trial.path: number for number, trial in enumerate(trials)}
    return sorted(kept.values(), key=lambda trial: order[trial.path]), refused


def _most_common(triples: Iterable[tuple[str, Any, Any]]) -> dict[tuple[str, Any], Any]:
    """Return the third value that is most common with the first two, the smallest of several."""
    counts: defaultdict[tuple[str, Any], Counter[Any]] = defaultdict(Counter)
    for first, second, third in triples:
        counts[first, second][third] += 1
    return {key: min(each, key=lambda value: (-each[value], value)) for key, each in counts.items()}


def is_published_pairing(trial: Trial) -> bool:
    """Whether the model ran under its own recipe, without overrides, for the published budget."""
    return trial.result.track == "published" and trial.result.pairing == "default" and "@" not in trial.row


def differences(first: Fingerprint, second: Fingerprint) -> list[str]:
    """Return why scores of two fingerprints may not be compared, one line per fact; empty when they may."""
    facts = {name: (getattr(first, name), getattr(second, name)) for name in Fingerprint.model_fields}
    return [
        f"{name.replace('_revision', ' revision')}: {_fact(name, one)} against {_fact(name, two)}"
        for name, (one, two) in facts.items()
        if one != two
    ]


def _fact(name: str, value: Any) -> str:
    """Return a fact of a fingerprint; revision 0 is that of results from before there were numbers."""
    if name.endswith("_revision") and not value:
        return "unknown"
    return _brief(list(value) if isinstance(value, tuple) else value)


def circumstances(first: Trial, second: Trial) -> list[str]:
    """Return in what two trials differ that does not keep them from being compared, one line per fact."""
    one, two = first.result, second.result
    facts: dict[str, tuple[Any, Any]] = {
        "row": (first.row, second.row),
        "seed": (one.seed, two.seed),
        "board": (first.kind, second.kind),
        "status": (one.status, two.status),
        "parameters": (one.model.parameters, two.model.parameters),
        "pre-training data": (one.model.pretraining_data, two.model.pretraining_data),
        "weights": (one.model.weights_hash or "none", two.model.weights_hash or "none"),
    }
    for part, left, right in (("recipe", one.recipe, two.recipe), ("environment", one.environment, two.environment)):
        facts |= {f"{part}.{name}": (left.get(name), right.get(name)) for name in sorted(left.keys() | right.keys())}
    return [f"{name}: {_brief(a)} against {_brief(b)}" for name, (a, b) in facts.items() if a != b]


_CHANGE = re.compile(r"[a-z_0-9]+=[A-Za-z0-9_.+-]{1,60}")
"""A change of one field that may be part of a row's name; others are left to the recipe's digest."""


def overrides(recipe: dict[str, Any], task: Task | None) -> str:
    """Return how a trial's recipe departs from the named one at the task's own sizes, as ``crop=96,batch=8``.

    Of a recipe that is not published it is what was changed of it when it ran. Empty for a model without one.
    """
    if "loss" not in recipe:
        return ""
    own = published_recipe(str(recipe.get("name")))
    if own is None:
        changed = recipe.get("changed")
        told = [str(each) for each in changed] if isinstance(changed, list | tuple) else []
        return ",".join(each for each in told if _CHANGE.fullmatch(each))
    if task is not None:
        own = own.for_task(task)
    changed = []
    for name, short in (("crop", "crop"), ("batch_size", "batch")):
        expected = getattr(own, name)
        if expected is not None and recipe.get(name) != expected:
            changed.append(f"{short}={recipe[name]}" if isinstance(recipe.get(name), int) else short)
    crop, batch_size = (value if isinstance(value := recipe.get(key), int) else None for key in ("crop", "batch_size"))
    resized = own.resized(crop=crop, batch_size=batch_size).facts()
    for name in [*resized, *(name for name in LATER if name in recipe)]:
        value = resized.get(name)
        if name in ("name", "crop", "batch_size") or name not in recipe or recipe[name] == value:
            continue
        if name == "inference":
            changed.append(_inference_change(resized[name], recipe[name]))
        else:
            found = str(recipe[name])
            changed.append(f"{name}={found}" if isinstance(recipe[name], float | int) or is_name(found) else name)
    return ",".join(changed)


def command(trials: Sequence[Trial]) -> str:
    """Return the command that makes these trials of one row and column again."""
    result = trials[0].result
    seeds = sorted(trial.result.seed for trial in trials)
    if result.status == "submitted":
        return f"embench score --task {result.task} --predictions DIR --name {result.model.name} --seed {seeds[0]}"
    model = str(result.environment.get("model") or result.model.name)
    parts = ["embench run", f"--model {shlex.quote(model)}", f"--task {result.task}"]
    if result.pairing != "default":
        parts.append(f"--recipe {result.pairing}")
    task = known_task(result.task)
    for override in overrides(result.recipe, task).split(","):
        name, _, value = override.partition("=")
        if name in ("crop", "batch", "precision", "overlap"):
            parts.append(f"--{'batch-size' if name == 'batch' else name} {value}")
        elif value:
            parts.append(f"--set {name}={value}")
    if task is None or task.iterations != result.iterations_asked:
        parts.append(f"--iterations {result.iterations_asked}")
    parts.append(f"--evaluations {max(len(trial.curve) for trial in trials)}")
    if seeds[0]:
        parts.append(f"--first-seed {seeds[0]}")
    parts.append(f"--seeds {seeds[-1] - seeds[0] + 1}")
    source = result.environment.get("source")
    return " ".join(parts) + (f"  # with the file of SHA-256 {source}" if source else "")


LONGEST_SLUG = 100
"""Letters of a file's name that follow from a row."""


@cache
def slug(row: str) -> str:
    """Return a file name for a row: itself where it is one, else cleaned, a tilde and digits of its digest.

    No name of a model holds a tilde, so that nobody's can be the slug of another's row.
    """
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", row).strip("-.")[:LONGEST_SLUG]
    return cleaned if cleaned == row else f"{cleaned}~{digest_of(row)}"


@cache
def known_task(name: str) -> Task | None:
    """Return the facts of a registered task or of one prepared here; ``None`` where there are none."""
    try:
        return find_task(name)
    except BadInput:
        return None


def _inference_change(own: dict[str, Any], found: Any) -> str:
    """Return ``overlap=0.25`` where only the window's overlap differs, else ``inference``."""
    if isinstance(found, dict) and found.keys() == own.keys():
        values = {str(found[key]) for key in own if found[key] != own[key] and key.startswith("overlap")}
        others = [key for key in own if found[key] != own[key] and not key.startswith("overlap")]
        if len(values) == 1 and not others and is_name(*values):
            return f"overlap={values.pop()}"
    return "inference"


def stream_of(trial: Trial) -> tuple[str, str, int]:
    return trial.result.model.name, str(trial.result.recipe.get("name")), trial.result.seed


def mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
