"""A folder that can be uploaded to Hugging Face as it is: weights, configuration, model card, example, licence."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from embench.core.errors import BadInput
from embench.core.files import write_atomic
from embench.models.trained import Trained
from embench.prediction.packages import About, common


def write(network: Trained, out: Path, about: About) -> None:
    """Write the folder; its ``README.md`` begins with the metadata that Hugging Face reads.

    ``model.safetensors`` and ``model.json`` are the kept weights and their card, so that
    ``embench predict FOLDER/model.safetensors ...`` applies them.

    Raises
    ------
    BadInput
        When the output has a suffix, or the weights do not fit their card.
    """
    if out.suffix:
        raise BadInput(f"{out}: a folder is written; leave out {out.suffix}")
    from embench.prediction.predict import load_module

    card, task = network.card, network.card.the_task
    licence = common.licence_of(network, about)
    module = load_module(network, about.model)
    image_YX = common.example(network, about.data)
    scores = common.scores_of(module, image_YX, card)[0]
    labels_YX = (scores[0] > 0.5).astype(np.uint8) if task.outputs == 1 else scores.argmax(0).astype(np.uint8)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / "package"
        folder.mkdir()
        shutil.copyfile(network.path, folder / "model.safetensors")
        shutil.copyfile(network.path.with_suffix(".json"), folder / "model.json")
        common.cover(image_YX, labels_YX, folder / "cover.png")
        write_atomic(folder / "README.md", _front(network, licence) + common.words(network, licence) + _authors(about))
        folder.rename(out)


def _front(network: Trained, licence: str | None) -> str:
    card, task = network.card, network.card.the_task
    facts: dict[str, object] = {
        "license": licence.lower() if licence else "other",
        "library_name": "embench",
        "pipeline_tag": "image-segmentation",
        "tags": ["electron-microscopy", "segmentation", *task.classes[1:]],
    }
    if card.score is not None:
        facts["model-index"] = [
            {
                "name": card.row,
                "results": [
                    {
                        "task": {"type": "image-segmentation"},
                        "dataset": {"name": task.title, "type": task.name},
                        "metrics": [{"type": "mean_iou", "value": round(card.score, 6), "name": "IoU"}],
                    }
                ],
            }
        ]
    # JSON is YAML too, so that no name needs to be escaped by hand
    return "---\n" + "\n".join(f"{key}: {json.dumps(value)}" for key, value in facts.items()) + "\n---\n\n"


def _authors(about: About) -> str:
    return f"\n## Made by\n\n{', '.join(about.authors)}\n" if about.authors else ""
