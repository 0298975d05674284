"""What a pre-training can be asked for, each option once."""

from dataclasses import dataclass
from pathlib import Path

from embench.core.options import option

_METHOD, _MACHINE, _OUTPUT = "Method", "Machine", "Files"


@dataclass(frozen=True)
class PretrainingRequest:
    """What to pre-train. Every field is an option of ``embench pretrain``, with its help.

    ``model``: a registered name or ``path/to/file.py:Class``, where the method takes any. One that is initialised
    from this method has its base trained, and finds the checkpoint by itself; another is trained as it is. ``None``
    for a number: as published, or the method's reduced one at scale ``tiny``.
    """

    model: str | None = option(
        None, "Name or FILE.py:Class of the model to pre-train (default: the published one).", panel=_METHOD
    )
    init_from: Path | None = option(
        None, "What the network itself is initialised from, where it is (default: as imported).", panel=_METHOD
    )
    epochs: int | None = option(None, "Passes over the images (default: the published number).", panel=_METHOD)
    batch_size: int | None = option(None, "Images per step, of all devices together.", panel=_METHOD)
    crop: int | None = option(None, "Crop size in pixels.", panel=_METHOD)
    scale: str | None = option(None, "full or tiny (default: the data set's).", panel=_METHOD)
    seed: int = option(0, "Random seed.", panel=_METHOD)
    learning_rate: float | None = option(None, "At the start (default: as published).", panel=_METHOD)
    ema: float = option(0.0, "Decay of a moving average of the parameters, which is written; 0: none.", panel=_METHOD)
    precision: str = option("fp32", "fp32 or bf16.", panel=_MACHINE)
    grad_accum: int = option(1, "Parts into which a device's batch is cut to save memory.", panel=_MACHINE)
    compile: bool = option(False, "Let torch compile the network first.", "--compile", panel=_MACHINE)
    device: str = option("auto", "auto, cpu or cuda.", panel=_MACHINE)
    threads: int | None = option(None, "CPU threads (default: all cores).", panel=_MACHINE)
    workers: int | None = option(None, "Threads that make batches ahead of the steps.", panel=_MACHINE)
    deterministic: bool = option(
        False, "Same bytes every time on a GPU too, slower (on a CPU always).", "--deterministic", panel=_MACHINE
    )
    state_every: float = option(300.0, "Seconds between training states on disk.", panel=_OUTPUT)
    checkpoint_every: int = option(20, "Epochs between checkpoints and example pictures that stay.", panel=_OUTPUT)
    out: Path | None = option(None, "Checkpoint to write (default: where run looks for it).", panel=_OUTPUT)
    force: bool = option(False, "Replace a checkpoint made with other settings.", "--force", panel=_OUTPUT)
    data_folder: Path | None = option(
        None,
        "Folder of prepared data (default: your user data folder).",
        "--data-dir",
        panel=_OUTPUT,
        environment="EMBENCH_DATA",
    )
