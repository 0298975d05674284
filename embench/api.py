"""embench from Python: the same code as the commands, with arrays and tables instead of files and pages.

Import these from :mod:`embench` itself: ``embench.run(...)``, ``embench.predict(...)``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from embench.core.errors import BadInput, TrialsFailed, TryAgain
from embench.core.paths import data_folder

if TYPE_CHECKING:
    import pandas as pd

    from embench.data.store import Prepared
    from embench.data.task import Task

Where = str | os.PathLike[str]


def tasks(data: Where | None = None) -> list[Task]:
    """Return the tasks that are known: the built-in ones, then those prepared from one's own images.

    Parameters
    ----------
    data : path, optional
        The folder of prepared data; by default ``EMBENCH_DATA``, or the user's data folder.

    Examples
    --------
    >>> import embench
    >>> [task.name for task in embench.tasks() if task.dataset == "cremi"]
    ['cremi']
    """
    from embench.data import catalog

    return [*catalog.all_tasks(), *catalog.own_tasks(_path(data))]


def load_task(name: str, data: Where | None = None) -> Prepared:
    """Open a prepared task; its images and labels are read when they are indexed.

    Parameters
    ----------
    name : str
        Of a task (:func:`tasks`); generated ones are made on first use.
    data : path, optional
        As for :func:`tasks`.

    Returns
    -------
    Prepared
        ``.task`` has the classes, the voxel size (ZYX nm) and the rest; ``.volumes("train")``, ``("valid")`` and
        ``("test")`` give volumes with ``.name``, ``.image`` and ``.labels``, HDF5 datasets (Z, Y, X) uint8 that
        are indexed like arrays. Close it, or use it as a context manager.

    Raises
    ------
    BadInput
        When the task is unknown, or not prepared (with the command that prepares it).

    Examples
    --------
    >>> import embench
    >>> with embench.load_task("mini-perez-mito") as prepared:
    ...     volume = prepared.volumes("test")[0]
    ...     print(prepared.task.classes, volume.image[0].dtype)
    ('background', 'mitochondria') uint8
    """
    from embench.data import catalog

    return catalog.open_prepared(name, _path(data))


def run(
    models: str | Sequence[str],
    tasks: str | Sequence[str],
    *,
    seeds: int = 6,
    results: Where = "results",
    data: Where | None = None,
    jobs: int = 1,
    **options: Any,
) -> pd.DataFrame:
    """Train and score models on tasks, one trial a seed; what is done already is not done again.

    Parameters
    ----------
    models, tasks : str or sequence of str
        As ``--model`` and ``--task`` of ``embench run`` take them.
    seeds : int
        Trials per model and task.
    results : path
        Folder of result files.
    data : path, optional
        As for :func:`tasks`.
    jobs : int
        Trials at a time. Above 1 they run in processes of their own, which import the script that calls this: guard it
        with ``if __name__ == "__main__":``.
    **options
        Every further field of :class:`embench.runs.options.RunRequest`: ``iterations``, ``crop``, ``device``, ...

    Returns
    -------
    DataFrame
        The finished trials of this request, as :func:`results` gives them.

    Raises
    ------
    BadInput
        Before anything is trained: names, numbers, data or checkpoints that cannot be used.
    TrialsFailed, TryAgain
        Trials that ended without a result; those that finished are on disk.
    """
    import torch

    from embench.runs import executors, keep, plan
    from embench.runs.options import RunRequest
    from embench.runs.request import trials
    from embench.runs.worker import Failure
    from embench.scoring.results import load
    from embench.training.precision import fastest

    known = RunRequest.__dataclass_fields__
    if strange := [name for name in options if name not in known]:
        raise BadInput(f"run: no option {', '.join(strange)}; there are {', '.join(sorted(known))}")
    request = RunRequest(
        models=_names(models), tasks=_names(tasks), seeds=seeds, results=Path(results), data=_path(data), **options
    )
    executor = executors.find_executor("local", jobs=jobs)
    device = executor.device(request.device)
    if request.precision == "auto":
        request = replace(request, precision=fastest(torch.device(device)))
    planned = trials(request, device)
    keep.check_room(planned)
    plan.write(planned)
    outcomes = executor.run([trial for trial in planned if not plan.is_done(trial)])
    for kind, fault in (("error", TrialsFailed), ("bad-input", BadInput), ("try-again", TryAgain)):
        lines = [each.message for each in outcomes if isinstance(each, Failure) and each.kind == kind]
        if lines:
            raise fault("\n".join(dict.fromkeys(lines)))
    return _frame([load(trial.path, trial.results_folder) for trial in planned if plan.is_done(trial)])


def results(folder: Where = "results") -> pd.DataFrame:
    """Return every result below a folder as a table, one line a trial.

    Parameters
    ----------
    folder : path

    Returns
    -------
    DataFrame
        ``model`` (the leaderboard's row), ``task``, ``seed``, ``score`` (NaN for a trial that diverged), ``checkpoint``
        (hash of what it was initialised from, or ``""``), ``status``, ``iterations``, ``track``, ``synthetic``,
        ``parameters``, ``seconds_training``, ``weights`` (hash of the final weights where kept). It is what
        ``leaderboard.rank`` and ``leaderboard.compare`` take.

    Raises
    ------
    BadInput
        When there is no such folder, or files in it cannot be used (one line each).
    """
    from embench.scoring.results import load_all

    found, refused = load_all([Path(folder)])
    if refused:
        raise BadInput(refused)
    return _frame(found)


@overload
def predict(
    networks: Where | Sequence[Where],
    image: NDArray[np.uint8],
    out: None = None,
    *,
    data: Where | None = ...,
    **options: Any,
) -> dict[str, NDArray[Any]]: ...
@overload
def predict(
    networks: Where | Sequence[Where], image: Where, out: Where, *, data: Where | None = ..., **options: Any
) -> dict[str, Any]: ...
def predict(
    networks: Where | Sequence[Where],
    image: NDArray[np.uint8] | Where,
    out: Where | None = None,
    *,
    data: Where | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment an image with trained networks: an array in memory, or a file of any size into a file.

    Parameters
    ----------
    networks : path or sequence of paths
        Result files whose weights are kept, or ``.safetensors`` weights; of several the mean probability counts.
    image : ndarray of uint8, or path
        (Y, X) or (Z, Y, X); or a file or folder as ``embench predict`` takes it.
    out : path, optional
        Where to, for a file; its suffix says the format.
    data : path, optional
        As for :func:`tasks`.
    **options
        Fields of :class:`embench.prediction.predict.Options` (``probabilities``, ``doubt``, ``instances``, ``flips``,
        ``tile``, ``voxel_size`` in nm ZYX, ``resample``, ...); for files also ``jobs`` and ``overwrite``.

    Returns
    -------
    dict
        For an array: ``labels`` uint8 of its shape, and as asked for ``probabilities`` float32 (C, ...) in 0..1,
        ``doubt``, ``instances``. For a file: the card that is written beside the output.

    Raises
    ------
    BadInput
        As the command does, in a line each.
    """
    from embench.prediction import batch
    from embench.prediction.predict import Options, predict_array

    several = [networks] if isinstance(networks, str | os.PathLike) else list(networks)
    paths = [Path(each) for each in several]
    own = {name: options.pop(name) for name in ("jobs", "overwrite") if name in options}
    if strange := [name for name in options if name not in Options.__dataclass_fields__]:
        raise BadInput(f"predict: no option {', '.join(strange)}; there are {', '.join(Options.__dataclass_fields__)}")
    if isinstance(image, np.ndarray):
        if out is not None or own:
            raise BadInput("predict: an array is predicted in memory; leave out out, jobs and overwrite")
        return predict_array([batch.find_network(path, _path(data)) for path in paths], image, Options(**options))
    if out is None:
        raise BadInput(f"predict: say where the prediction of {image} goes: out=...")
    ((_, card),) = batch.predict(paths, Path(image), Path(out), Options(**options), data=_path(data), **own)
    return card


def _frame(found: Sequence[Any]) -> pd.DataFrame:
    import pandas as pd

    rows = [
        {
            "model": result.row,
            "task": result.task,
            "seed": result.seed,
            "score": float("nan") if result.score is None else result.score,
            "checkpoint": result.model.weights_hash or "",
            "status": result.status,
            "iterations": result.iterations_done,
            "track": result.track,
            "synthetic": result.synthetic,
            "parameters": result.model.parameters,
            "seconds_training": result.seconds_training,
            "weights": result.trained or "",
        }
        for result in found
    ]
    columns = ["model", "task", "seed", "score", "checkpoint", "status", "iterations", "track", "synthetic"]
    return pd.DataFrame(rows, columns=[*columns, "parameters", "seconds_training", "weights"])


def _path(data: Where | None) -> Path:
    return data_folder() if data is None else Path(data)


def _names(names: str | Sequence[str]) -> list[str]:
    return names.split(",") if isinstance(names, str) else list(names)
