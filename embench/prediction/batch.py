"""Networks found by what a user has in hand, and applied to one image or to every file of a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embench.core.errors import BadInput
from embench.core.paths import data_folder
from embench.data import writers
from embench.data.listing import stem
from embench.models import trained
from embench.models.trained import Trained
from embench.prediction.predict import Job, Options, run
from embench.prediction.source import opened_files
from embench.scoring import results


def find_network(path: Path, data: Path | None = None) -> Trained:
    """Return the trained network of a result file, or of a weights file or its card.

    Parameters
    ----------
    path : Path
        A result (``.json``) whose weights are kept on this machine, or ``.safetensors`` weights.
    data : Path, optional
        The folder of prepared data, beside which weights are kept.

    Raises
    ------
    BadInput
        When there is no such file, or no weights to it.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file; give a result or kept weights (embench list trained)")
    if path.is_dir():
        raise BadInput(f"{path}: a folder; give result files or weights")
    if path.suffix == ".safetensors" or (path.suffix == ".json" and path.with_suffix(".safetensors").exists()):
        return trained.load(path)
    if path.suffix != ".json":
        raise BadInput(f"{path}: neither a result (.json) nor kept weights (.safetensors); see: embench list trained")
    result = results.load(path)
    if result.trained is None:
        why = "was made elsewhere" if result.status == "submitted" else "kept no weights"
        raise BadInput(f"{path}: this trial {why}; train it with: embench run (without --no-keep-weights)")
    found = trained.find(result.trained, data)
    if found is None:
        raise BadInput(
            f"{path}: its weights {result.trained[:12]} are not in {trained.folder_of(data)}; "
            "copy them there with their card, name them, or set --data-dir"
        )
    return found


def predict(
    networks: Sequence[Path],
    image: Path,
    out: Path,
    options: Options,
    *,
    each: bool = False,
    jobs: int = 1,
    overwrite: bool = False,
    data: Path | None = None,
) -> list[tuple[Path, dict[str, Any]]]:
    """Predict an image, or every file of a folder, and return each output with its card.

    Raises
    ------
    BadInput
        As :func:`find_network` and :func:`embench.prediction.predict.run`.
    """
    found = tuple(find_network(path, data or data_folder()).path for path in networks)
    if not each:
        return [(out, run(Job(found, image, out, options), jobs, overwrite=overwrite))]
    if writers.suffix(out):
        raise BadInput(f"{out}: with --each the output is a folder; leave out {writers.suffix(out)}")
    if not image.is_dir():
        raise BadInput(f"{image}: not a folder; leave out --each")
    files = opened_files(image)
    if not files:
        raise BadInput(f"{image}: no images in it")
    targets = [out / f"{stem(file)}{'.png' if file.suffix.lower() == '.png' else '.tif'}" for file in files]
    if len(set(targets)) < len(targets):
        twice = next(target for target in targets if targets.count(target) > 1)
        raise BadInput(f"{image}: several files would become {twice.name}; rename them")
    return [
        (target, run(Job(found, file, target, options), jobs, overwrite=overwrite))
        for file, target in zip(files, targets, strict=True)
    ]


def read_card(path: Path) -> dict[str, Any]:
    """Return the card beside an output."""
    found: dict[str, Any] = json.loads((path.parent / f"{path.name}.json").read_text())
    return found
