"""A bioimage.io model: TorchScript weights, a test input and its output, a cover, documentation, citations, licence."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from embench.core.errors import BadInput
from embench.core.files import replacing, sha256
from embench.models.trained import Trained
from embench.prediction.packages import About, common
from embench.training.recipe import SlidingWindow

_TOLERANCE = 1e-3


def write(network: Trained, out: Path, about: About) -> None:
    """Write a zip that bioimage.io's own tools validate and run without a network connection.

    A network that looks through windows takes images of the window's size, and so does one whose TorchScript would not
    give the same at another; other networks take any whose sides are multiples of 32. What is done to grey values
    before, and to logits after, is part of the description.

    Raises
    ------
    BadInput
        The output is no ``.zip``; a licence that is none; a network that cannot be brought into TorchScript.
    """
    if out.suffix.lower() != ".zip":
        raise BadInput(f"{out}: a bioimage.io model is a .zip file")
    licence = common.licence_of(network, about)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        facts = _facts(network, about, folder, licence)
        # JSON is YAML too, so that no name needs to be escaped by hand
        (folder / "rdf.yaml").write_text(json.dumps(facts, indent=1) + "\n")
        with replacing(out) as target, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, file.name)


def _facts(network: Trained, about: About, folder: Path, licence: str | None) -> dict[str, Any]:
    """Write the files of a package and return their description (the model specification of bioimage.io, 0.5)."""
    import torch

    from embench.prediction.predict import load_module

    card, task = network.card, network.card.the_task
    module = load_module(network, about.model)
    image_YX = common.example(network, about.data)
    scores = common.scores_of(module, image_YX, card)
    labels_YX = (scores[0, 0] > 0.5).astype(np.uint8) if task.outputs == 1 else scores[0].argmax(0).astype(np.uint8)
    windows = isinstance(card.the_inference, SlidingWindow)
    any_size = _to_torchscript(module, len(image_YX), windows, folder / "weights.pt")
    np.save(folder / "test_input.npy", image_YX[None, None])
    np.save(folder / "test_output.npy", scores.astype(np.float32))
    common.cover(image_YX, labels_YX, folder / "cover.png")
    (folder / "README.md").write_text(common.words(network, licence))
    (folder / "embench.json").write_text(card.model_dump_json(indent=1))

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sha256(folder / name)}

    mean, std = card.norms
    scale = {"scale": task.voxel_size[2], "unit": "nanometer"} if task.voxel_size else {}
    size: Any = {"min": 64, "step": 32} if any_size else len(image_YX)
    channels = list(task.classes[1:] if task.outputs == 1 else task.classes)
    last = {"id": "sigmoid"} if task.outputs == 1 else {"id": "softmax", "kwargs": {"axis": "channel"}}
    as_float = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    facts: dict[str, Any] = {
        "format_version": "0.5.4",
        "type": "model",
        "name": _title(about.name or f"{card.title or card.model} {task.name}"),
        "description": f"Segments {', '.join(task.classes[1:])} in electron-microscopy images; {card.described()}."[
            :1024
        ],
        "authors": [{"name": name} for name in about.authors],
        "cite": [{"text": text, "url": url} for text, url in _citations(card)],
        "documentation": file("README.md"),
        "covers": [file("cover.png")],
        "attachments": [file("embench.json")],
        "tags": ["electron-microscopy", "semantic-segmentation", "embench", "2d", "pytorch"],
        "inputs": [
            {
                "id": "raw",
                "description": "8-bit grey sections",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": ["grey"]},
                    *({"type": "space", "id": name, "size": size, **scale} for name in "yx"),
                ],
                "data": {"type": "uint8", "range": [0, 255]},
                "test_tensor": file("test_input.npy"),
                "preprocessing": [
                    as_float,
                    {"id": "scale_linear", "kwargs": {"gain": 1 / (255 * std), "offset": -mean / std}},
                    as_float,  # else the tools bring it back to the type of the image
                ],
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "description": "of each class",
                "axes": [
                    {"type": "batch"},
                    {"type": "channel", "channel_names": channels},
                    *(
                        {"type": "space", "id": name, "size": {"tensor_id": "raw", "axis_id": name}, **scale}
                        for name in "yx"
                    ),
                ],
                "data": {"type": "float32", "range": [0, 1]},
                "test_tensor": file("test_output.npy"),
                "postprocessing": [last],
            }
        ],
        "weights": {"torchscript": {**file("weights.pt"), "pytorch_version": torch.__version__.split("+")[0]}},
    }
    return {**facts, "license": licence} if licence else facts


def _to_torchscript(module: Any, side: int, windows: bool, path: Path) -> bool:
    """Write a network as TorchScript; return whether it takes images of any size, not only of ``side``.

    Raises
    ------
    BadInput
        When it cannot be traced, or would give other logits.
    """
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that become constants: what comes of them is checked
        try:
            script = torch.jit.trace(module, torch.rand(1, 1, side, side), check_trace=False)
            agrees = _agree(script, module, side)
        except RuntimeError as error:
            raise BadInput(f"the network cannot be brought into TorchScript ({str(error).split(chr(10))[0]})") from None
        if not agrees:
            raise BadInput("the network gives other logits in TorchScript, of which bioimage.io models are made")
        script.save(str(path))
        return not windows and _agree(script, module, side + 32)


def _agree(script: Any, module: Any, side: int) -> bool:
    import torch

    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    try:
        return torch.allclose(script(image), module(image), atol=_TOLERANCE, rtol=_TOLERANCE)
    except RuntimeError:  # shapes that do not fit each other
        return False


def _citations(card: Any) -> list[tuple[str, str]]:
    """Return what to cite for the model and for the images, each with an address."""
    task = card.the_task
    found = [(card.citation, "https://github.com"), (task.citation, task.homepage or "https://bioimage.io")]
    cited = [(text, _address(text) or url) for text, url in found if text]
    return cited or [(f"{card.title or card.model}, trained with embench", "https://bioimage.io")]


def _address(text: str) -> str | None:
    """Return the address that a citation names, or that of its DOI."""
    if found := re.search(r"https?://[^\s,;)]+", text):
        return found[0].rstrip(".")
    found = re.search(r"\b10\.\d{4,9}/[^\s,;)]+", text)
    return f"https://doi.org/{found[0].rstrip('.')}" if found else None


def _title(text: str) -> str:
    """Return a name as bioimage.io takes it: letters, digits, and few signs."""
    kept = "".join(letter if letter.isalnum() or letter in "_+- ()" else " " for letter in text)
    return " ".join(kept.split())[:128]
