"""Which trials are to run: each as plain values, and the plans that stand beside the results.

A plan is a JSON file ``.plans/ID.json`` in the results folder. ID follows from the trials, so that the same command
given twice is one plan. ``embench status`` and ``embench retry`` start from the plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from embench.core import confined
from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.core.names import check_name, is_name
from embench.core.seeding import entropy
from embench.models.registry import absolute
from embench.scoring.schema import Fingerprint, digest_of
from embench.training.recipe import Recipe

Report = Callable[[str, int, float], None]
"""Called with what is going on, the iteration, and the loss (NaN outside training)."""

PLANS = ".plans"
MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class TrialSpec:
    """Everything a worker needs to run a trial; plain values, so that it travels to any process.

    Parameters
    ----------
    model : str
        Registered name or ``file.py:Class``.
    task : str
    seed : int
    recipe : Recipe
        Filled in for the task, and plain (:meth:`Recipe.plain`).
    pairing : str
        ``default`` when the recipe is the one the model is published with, else the recipe's name.
    track : {"published", "open"}
    iterations : int
    snapshots : tuple of int
        Iterations at which weights are scored; the last is the budget.
    key : TrialKey
    data, results_folder : Path
    weights : Path or None
    device : str
    threads : int
    save_every : float
        Seconds between training states on disk.
    keep_weights : bool
        Write the final weights beside the data (:mod:`embench.models.trained`).
    deterministic : bool
        On a GPU too (:mod:`embench.core.runtime`).
    workers : int or None
        Threads that make batches ahead of the steps; ``None``: by device and cores. A result does not depend on them.
    early_sections : int or None
        Sections of each test volume on which snapshots before the last are scored; ``None``: all.
    recipe_from : str or None
        What named the recipe; ``None``: it is the model's own. Callables in it are found there again.
    recipe_changes : tuple of str
        What was changed of it, as ``field=value``.
    """

    model: str
    task: str
    seed: int
    recipe: Recipe
    pairing: str
    track: Literal["published", "open"]
    iterations: int
    snapshots: tuple[int, ...]
    key: TrialKey
    data: Path
    results_folder: Path
    weights: Path | None
    device: str
    threads: int
    save_every: float = 60.0
    deterministic: bool = False
    keep_weights: bool = True
    workers: int | None = None
    early_sections: int | None = None
    recipe_from: str | None = None
    recipe_changes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How progress and logs name the trial."""
        row = self.key.model if self.pairing == "default" else f"{self.key.model}+{self.pairing}"
        return f"{row} {self.task} seed {self.seed}"

    @property
    def path(self) -> Path:
        """The result file."""
        return self.key.path(self.results_folder)

    @property
    def state_path(self) -> Path:
        """The training state while it is under way; removed when the result is written."""
        parts = self.path.relative_to(self.results_folder).with_suffix(".pt").parts
        return self.results_folder / ".running" / "--".join(parts)

    @property
    def claim_path(self) -> Path:
        """What says which process runs the trial (:func:`embench.core.locks.holder`)."""
        return self.state_path.with_suffix(".claim")

    @property
    def entropy(self) -> list[int]:
        """Random streams of the trial: unique per model and recipe, task and seed, equal on every machine."""
        return entropy(f"{self.key.model}/{self.recipe.name}/{self.task}", self.seed)

    def elsewhere(self) -> TrialSpec:
        """Return the trial with absolute paths, for a process that starts in another folder or on another machine."""
        return replace(
            self,
            model=absolute(self.model),
            recipe_from=self.recipe_from and absolute_recipe(self.recipe_from),
            recipe_changes=tuple(
                f"{name}={absolute_recipe(value)}"
                for name, _, value in (each.partition("=") for each in self.recipe_changes)
            ),
            data=self.data.absolute(),
            results_folder=self.results_folder.absolute(),
            weights=self.weights.absolute() if self.weights else None,
        )


def absolute_recipe(name: str) -> str:
    """Return ``FILE.py:NAME`` or ``FILE.toml`` with the file's absolute path, any other name as it is."""
    if name.endswith(".toml"):
        return str(Path(name).absolute())
    file, colon, attribute = name.rpartition(".py:")
    return f"{Path(file).absolute()}.py:{attribute}" if colon else name


def is_done(spec: TrialSpec) -> bool:
    """Whether the result is there, also when another machine has just written it."""
    try:
        # Looked up in the folder: a file known to be absent may stay so for a while in an NFS client's memory.
        return spec.path.name in confined.names(spec.path.parent, spec.results_folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BadInput(f"{spec.path.parent}: cannot be read ({error.strerror})") from None


_PLAN: TypeAdapter[tuple[TrialSpec, ...]] = TypeAdapter(tuple[TrialSpec, ...])


def write(trials: Sequence[TrialSpec]) -> Path:
    """Write the plan of ``trials``, all of one results folder, and return its file.

    The same trials always have the same file; whether they are done is not part of it.
    """
    trials = tuple(trial.elsewhere() for trial in trials)
    content = _PLAN.dump_json(trials, indent=1)
    path = trials[0].results_folder / PLANS / f"{digest_of(sorted(str(trial.path) for trial in trials))}.json"
    write_atomic(path, content + b"\n", below=trials[0].results_folder)
    return path


def load(path: Path) -> tuple[TrialSpec, ...]:
    """Read a plan; its trials write into the results folder in which the plan stands, wherever it was moved.

    Raises
    ------
    BadInput
        Too large, not a plan, or with a name that could form a path.
    """
    folder = path.parent.parent
    try:
        trials = _PLAN.validate_json(confined.read(path, folder, MAX_BYTES, "a plan"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise BadInput(f"{path}: not a plan ({error.errors()[0]['msg']}); remove it and run again") from None
    for trial in trials:
        for name in (trial.task, trial.key.task, trial.key.model, trial.key.recipe.name, trial.pairing):
            if not is_name(name):
                raise BadInput(f"{path}: {name[:80]!r} is not a name; remove the plan")
    return tuple(replace(trial, results_folder=folder) for trial in trials)


def load_all(results: Path) -> list[TrialSpec]:
    """Return the trials of every plan in a results folder, each once, seed by seed.

    Raises
    ------
    BadInput
        No such folder, or a plan that cannot be used.
    """
    if not results.is_dir():
        raise BadInput(f"{results}: no such folder; run: embench run --results {results}")
    trials: dict[Path, TrialSpec] = {}
    try:
        names = confined.names(results / PLANS, results)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"{results / PLANS}: cannot be read ({error.strerror})") from None
    for name in names:
        if name.endswith(".json") and not name.startswith("."):
            trials.update({trial.path: trial for trial in load(results / PLANS / name)})
    return sorted(trials.values(), key=lambda trial: (trial.seed, trial.task, trial.label))


@dataclass(frozen=True)
class TrialKey:
    """What makes a trial this one and no other: the file name of its result follows from it."""

    model: str
    task: str
    recipe: Recipe
    fingerprint: Fingerprint
    weights_hash: str | None
    seed: int
    transfer: str | None = None
    source: str | None = None
    """Hash of the file that says what the model is, or its package and version; ``None``: it is part of this one."""

    @property
    def variant(self) -> str:
        """Digest of everything but the seed."""
        facts = {
            "recipe": self.recipe.facts(),
            "fingerprint": self.fingerprint.model_dump(mode="json"),
            "weights": self.weights_hash,
            "transfer": self.transfer,
        }
        return digest_of(facts | ({"source": self.source} if self.source else {}))

    def path(self, results: Path) -> Path:
        """Return the result file of this trial under the folder ``results``; raise :class:`BadInput` for no names."""
        for name in (self.task, self.model, self.recipe.name):
            check_name(name)
        return results / self.task / self.model / f"{self.recipe.name}-{self.variant}" / f"seed-{self.seed}.json"
