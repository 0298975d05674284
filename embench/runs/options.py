"""What a run can be asked for, each option once: for Python as a dataclass, for the command line as its options."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embench.core.options import option

_WHAT, _RECIPE, _MACHINE, _OUTPUT = "What to run", "Recipe", "Machine", "Files"


@dataclass(frozen=True)
class RunRequest:
    """What to run. Every field is an option of ``embench run``, with its help.

    ``precision``: ``fp32``, ``bf16``, ``auto`` (the faster one on the device), or ``None`` (the recipe's).
    """

    models: Sequence[str] = option(
        (),
        "Names, FILE.py:Class, or a group (published, all, ...); comma-separated.",
        "--model",
        panel=_WHAT,
        names=True,
    )
    tasks: Sequence[str] = option((), "Tasks or suites, comma-separated.", "--task", panel=_WHAT, names=True)
    suite: str | None = option(None, "A suite of tasks: mini, vnc, published.", panel=_WHAT)
    seeds: int = option(6, "Trials per model and task.", panel=_WHAT)
    first_seed: int = option(0, "The first seed.", panel=_WHAT)
    iterations: int | None = option(None, "Budget in optimiser steps (default: the task's).", panel=_WHAT)
    evaluations: int = option(5, "Number of evaluations during training (the last is final).", panel=_WHAT)
    early_sections: int | None = option(
        None, "Sections of each test volume in evaluations before the last (default: all).", panel=_WHAT
    )
    init_from: Sequence[Path] = option(
        (), "Checkpoint to initialise from; may be repeated.", "--init-from", panel=_WHAT
    )
    tune: str | None = option(
        None, "Which part is trained: full, frozen (encoder) or lora; as NAME@frozen does for one model.", panel=_WHAT
    )
    recipe: str | None = option(
        None, "A recipe: its name, FILE.py:NAME or FILE.toml (default: the model's own).", panel=_RECIPE
    )
    recipe_changes: Sequence[str] = option(
        (), "Change one field, as in learning_rate=0.001 or loss=focal; may be repeated.", "--set", panel=_RECIPE
    )
    crop: int | None = option(None, "Crop size in pixels, and side of the sliding window.", panel=_RECIPE)
    batch_size: int | None = option(None, "Images per step.", panel=_RECIPE)
    overlap: float | None = option(None, "Overlap of the sliding window, 0..1.", panel=_RECIPE)
    precision: str | None = option(
        None, "fp32, bf16, or auto: the faster one here (default: the recipe's).", panel=_RECIPE
    )
    device: str = option("auto", "auto, cpu or cuda.", panel=_MACHINE)
    threads: int = option(1, "CPU threads per trial; part of what makes a result repeatable.", panel=_MACHINE)
    workers: int | None = option(
        None, "Threads per trial that make batches ahead of a GPU (default: by cores).", panel=_MACHINE
    )
    deterministic: bool = option(
        False,
        "Same bytes every time on a GPU too, slower (on a CPU always).",
        "--deterministic",
        panel=_MACHINE,
    )
    results: Path = option(Path("results"), "Folder for results.", panel=_OUTPUT)
    data: Path | None = option(
        None,
        "Folder of prepared data (default: your user data folder).",
        "--data-dir",
        panel=_OUTPUT,
        environment="EMBENCH_DATA",
    )
    keep_weights: bool = option(
        True, "Keep each trial's final weights, for predict.", "--keep-weights/--no-keep-weights", panel=_OUTPUT
    )
    save_every: float = option(60.0, "Seconds between training states on disk.", "--state-every", panel=_OUTPUT)


@dataclass(frozen=True)
class ExecutorOptions:
    """Where trials run."""

    executor: str = option("local", "local, slurm or ray.", panel=_MACHINE)
    jobs: int | None = option(None, "Trials at a time (default: one per GPU, or by cores).", panel=_MACHINE)
    slurm: Sequence[str] = option(
        (), "sbatch's options, as in partition=gpu,time=4:00:00; may be repeated.", "--slurm", panel=_MACHINE
    )
    address: str | None = option(
        None, "Ray's address: auto or ray://HOST:PORT (default: a Ray of this machine).", panel=_MACHINE
    )
