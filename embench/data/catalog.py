"""Every task and unlabelled set by name: one explicit table, and what installed packages add to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from embench.core.errors import BadInput
from embench.core.names import is_name, unknown
from embench.core.paths import data_folder, prepared_path
from embench.core.plugins import registered_under
from embench.data import store
from embench.data.task import Dataset, Task, UnlabelledSet

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Sources = Path | Sequence[Path] | None

DATASETS: dict[str, str] = {
    "mini": "embench.datasets.mini:DATASET",
    "vnc": "embench.datasets.vnc:DATASET",
    "cremi": "embench.datasets.cremi:DATASET",
    "guay": "embench.datasets.guay:DATASET",
    "kasthuri": "embench.datasets.kasthuri:DATASET",
    "perez": "embench.datasets.perez:DATASET",
    "urocell": "embench.datasets.urocell:DATASET",
    "lucchi": "embench.datasets.lucchi:DATASET",
    "all-mito": "embench.datasets.all_mito:DATASET",
    "cem500k": "embench.datasets.cem500k:DATASET",
}
"""Data set name -> module and attribute."""

SUITES: dict[str, tuple[str, ...]] = {
    "mini": (
        "mini-cremi",
        "mini-guay",
        "mini-kasthuri",
        "mini-perez-lyso",
        "mini-perez-mito",
        "mini-perez-nuclei",
        "mini-perez-nucleoli",
        "mini-urocell",
    ),
    "vnc": ("vnc-mito", "vnc-synapse"),
    "published": (
        "cremi",
        "guay",
        "kasthuri",
        "perez-lyso",
        "perez-mito",
        "perez-nuclei",
        "perez-nucleoli",
        "urocell",
    ),
}
"""Suite name -> its tasks."""

TEST_SHAPES: dict[str, tuple[int, int, int]] = {
    "cremi": (125, 1250, 1250),
    "guay": (121, 609, 400),
    "urocell": (256, 244, 256),
}
"""(Z, Y, X) of the test volume, where the publications say it (protocol 3): what can be said before it is prepared."""


GROUP = "embench.tasks"
"""Entry points of installed packages: the name of a data set, and the :class:`embench.Dataset` of that name."""


def dataset_names() -> list[str]:
    """Return the names of all data sets: those of the table, then those of installed packages; none is imported."""
    return [*DATASETS, *(name for name in registered_under(GROUP) if name not in DATASETS)]


@cache
def find_dataset(name: str) -> Dataset:
    """Return a data set by its own name or by the name of anything prepared from it.

    Raises
    ------
    BadInput
        An unknown name, with near ones; an installed package whose data set is none.
    """
    if name in DATASETS:
        module, _, attribute = DATASETS[name].partition(":")
        return getattr(import_module(module), attribute)
    if name in (installed := registered_under(GROUP)):
        return _installed(installed[name])
    for dataset in map(find_dataset, dataset_names()):
        if any(spec.name == name for spec in dataset.specs):
            return dataset
    known = [spec.name for dataset in map(find_dataset, dataset_names()) for spec in dataset.specs]
    raise unknown("task or data set", name, [*dataset_names(), *known])


def _installed(point: EntryPoint) -> Dataset:
    where = f"{point.value} (entry point {point.name} of {GROUP})"
    try:
        dataset = point.load()
    except Exception as error:  # it is anybody's code
        raise BadInput(f"{where}: cannot be imported ({type(error).__name__}: {error}); mend or uninstall it") from None
    if faults := dataset_faults(dataset, point.name):
        raise BadInput([f"{where}: {fault}" for fault in faults])
    return dataset


def dataset_faults(dataset: object, name: str) -> list[str]:
    """Say what keeps an object from being the data set called ``name`` of an installed package."""
    if not isinstance(dataset, Dataset):
        return [
            f"{type(dataset).__name__}, not a data set; make it with embench.Dataset(name=..., tasks=..., read=...)"
        ]
    faults = [] if dataset.name == name else [f"its data set is called {dataset.name!r}; both names must be the same"]
    if not dataset.specs:
        faults.append("nothing is prepared from it: give it tasks or unlabelled sets")
    own = {spec.name for spec in find_specs(DATASETS)}
    for spec in dataset.specs:
        if not is_name(spec.name):
            faults.append(f"task name {spec.name[:80]!r}: use lower-case letters, digits, '.', '_' and '-'")
        if spec.name in own or spec.name in DATASETS:
            faults.append(f"task name {spec.name!r} is that of a built-in one; choose another")
        if spec.dataset != dataset.name:
            faults.append(f"{spec.name}: its dataset is {spec.dataset!r}; it must be {dataset.name!r}")
    return faults


def find_specs(names: Iterable[str]) -> list[Task | UnlabelledSet]:
    """Return everything that is prepared from the data sets of these names."""
    return [spec for name in names for spec in find_dataset(name).specs]


def is_registered(name: str) -> bool:
    """Whether a data set, or a task or unlabelled set prepared from one, is called ``name``."""
    names = dataset_names()
    return name in names or any(spec.name == name for spec in find_specs(names))


def all_tasks() -> list[Task]:
    """Return every registered task, in the order of the table."""
    return [task for name in dataset_names() for task in find_dataset(name).tasks]


def own_tasks(folder: Path | None = None) -> list[Task]:
    """Return the user's own tasks: those prepared in ``folder`` that no data set here has."""
    found = []
    for path in sorted((folder or data_folder()).glob("*.h5")):
        if is_registered(path.stem):  # nobody's own; opening it would only take time
            continue
        with store.Prepared(path) as prepared:
            if isinstance(prepared.spec, Task) and prepared.spec.dataset not in dataset_names():
                found.append(prepared.spec)
    return found


def all_unlabelled() -> list[UnlabelledSet]:
    """Return every registered unlabelled set."""
    return [spec for name in dataset_names() for spec in find_dataset(name).unlabelled]


def find_task(name: str, folder: Path | None = None) -> Task:
    """Return a task by name: a registered one, or the user's own from its prepared file in ``folder``."""
    for task in all_tasks():
        if task.name == name:
            return task
    path = prepared_path(name, folder)
    if path.is_file():
        with store.Prepared(path) as prepared:
            return prepared.task
    if name in DATASETS:
        raise BadInput(f"{name}: a data set; name a task of it: {', '.join(t.name for t in find_dataset(name).tasks)}")
    raise unknown("task", name, [task.name for task in all_tasks()])


def find_suite(name: str) -> list[Task]:
    """Return the tasks of a suite."""
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    return [find_task(task) for task in SUITES[name]]


def prepare(
    name: str, source: Sources = None, folder: Path | None = None, *, force: bool = False
) -> list[tuple[str, Path, bool]]:
    """Prepare a task, an unlabelled set, or everything of a data set.

    Parameters
    ----------
    name : str
        Of a data set, or of one thing prepared from it.
    source : Path or sequence of Path, optional
        Published files: a folder, a zip archive, or single files; by default what was fetched
        (:mod:`embench.data.download`). Not used by generated data.
    folder : Path, optional
        Folder of prepared files (default :func:`embench.core.paths.data_folder`).
    force : bool
        Prepare again what is already there.

    Returns
    -------
    list of (str, Path, bool)
        Name, prepared file, and whether it was written now.
    """
    from embench.data import download
    from embench.data.sources import opened

    dataset = find_dataset(name)
    data = folder or data_folder()
    specs = [spec for spec in dataset.specs if name in (dataset.name, spec.name)]
    strict = not dataset.generated
    given = [source] if isinstance(source, Path) else list(source or ())
    if absent := [f"--source {path}: no such file or folder" for path in given if not path.exists()]:
        raise BadInput(absent)
    paths = {spec.name: prepared_path(spec.name, data) for spec in specs}
    waiting = [spec for spec in specs if force or not _is_prepared(paths[spec.name], spec, strict=strict)]
    if waiting and dataset.generated:
        for spec in waiting:
            store.write(paths[spec.name], spec, dataset.read(None, spec.name), {"source": "generated"})
    elif waiting:
        sources = [source] if isinstance(source, Path) else source or download.fetched(dataset, data)
        if not sources:
            raise BadInput(f"{waiting[0].name}: its files are not here; {how_to_prepare(dataset)}")
        if dataset.pack:
            for spec in dataset.unlabelled:
                dataset.pack(sources, paths[spec.name], spec)
        else:
            with opened(dataset, sources, data) as (root, card):
                for spec in waiting:
                    store.write(paths[spec.name], spec, dataset.read(root, spec.name), card)
    for spec in specs:
        if given and spec not in waiting:
            _check_source(paths[spec.name], given)
    return [(spec.name, paths[spec.name], spec in waiting) for spec in specs]


def _check_source(path: Path, given: Sequence[Path]) -> None:
    """Raise :class:`BadInput` where a prepared file was made from sources of other names than those given now."""
    with store.Prepared(path) as prepared:
        known = prepared.card.get("source")
    names = [each.resolve().name for each in given]
    if isinstance(known, list) and not set(names) & {str(each) for each in known}:
        raise BadInput(
            f"{path}: prepared from {', '.join(map(str, known))}; add --force to prepare it from {', '.join(names)}"
        )


def how_to_prepare(dataset: Dataset) -> str:
    """Return the commands that bring the files of a data set into the prepared format."""
    by_hand = f"embench prepare {dataset.name} --source DIR|ZIP|FILE"
    if not dataset.downloads:
        return f"run: {by_hand}"
    return f"run: embench fetch {dataset.name}, then embench prepare {dataset.name}; or with your own files: {by_hand}"


def open_prepared(name: str, folder: Path | None = None) -> store.Prepared:
    """Open the prepared file of a task or unlabelled set; generated data are made on first use.

    Raises
    ------
    BadInput
        Naming the command that prepares it, when it is not there.
    """
    path = prepared_path(name, folder)
    if not path.exists():
        try:
            dataset = find_dataset(name)
        except BadInput:
            raise BadInput(f"{name}: not prepared in {path.parent}, and no built-in task or data set") from None
        if not dataset.generated:
            raise BadInput(f"{name}: not prepared in {path.parent}; {how_to_prepare(dataset)}")
    if not path.exists() or is_stale(path, name):
        make(name, folder)
    return store.Prepared(path)


def make(name: str, folder: Path | None = None) -> None:
    """Generate the prepared file of a task or unlabelled set of generated data."""
    prepare(name, None, folder, force=True)


def is_stale(path: Path, name: str) -> bool:
    """Whether ``path`` holds generated data of another version of its generator."""
    specs = [spec for spec in find_specs(dataset_names()) if spec.name == name]
    if not specs or not find_dataset(name).generated:
        return False
    with store.Prepared(path) as prepared:
        return prepared.spec != specs[0]


def _is_prepared(path: Path, spec: Task | UnlabelledSet, *, strict: bool) -> bool:
    if not path.exists():
        return False
    with store.Prepared(path) as prepared:
        if prepared.spec == spec:
            return True
    if strict:
        raise BadInput(f"{path}: prepared from another description of {spec.name}; add --force to prepare it again")
    return False
