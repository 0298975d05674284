"""Published checkpoints: recognised by what is in them, renamed by explicit maps, never loaded in silence (protocol 8).

Nothing in a file is executed (:mod:`baselines.safe_load`). An entry without a place, a place without an entry, and a
shape that differs are errors that name it; what is knowingly not taken over is listed in the map and in every report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import safe_load
from baselines.published_formats import (
    AFTER_ENCODER,
    ENCODER,
    FINE_TUNED,
    HEAD,
    IMAGENET,
    KINDS,
    POSITIONS,
    RECONSTRUCTION,
    Kind,
)
from baselines.transunet import TransUNet768, TransUNetImageNet, TransUNetModel, check_size, hidden_size
from baselines.transunet_network import ReconstructionTransUNet, TransUNet
from baselines.unet_resnet50 import UNetResNet50, rgb_unet, unet
from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.core.names import check_name, unknown
from embench.core.paths import data_folder
from embench.data import download
from embench.data.task import Dataset, Download
from embench.models.checkpoints import ImportedCard, load_weights, matched, save_weights, weights_path
from embench.pretraining.method import CEM500K_NORMS

DOWNLOADS = {
    "mocov2-cem500k": Download(
        "https://zenodo.org/record/6453140/files/cem500k_mocov2_resnet50_200ep.pth.tar?download=1",
        "cem500k_mocov2_resnet50_200ep.pth.tar",
    ),
    "imagenet-resnet50": Download("https://download.pytorch.org/models/resnet50-19c8e357.pth", "resnet50-19c8e357.pth"),
    "imagenet-resnet50-mocov2": Download(
        "https://dl.fbaipublicfiles.com/moco/moco_checkpoints/moco_v2_200ep/moco_v2_200ep_pretrain.pth.tar",
        "moco_v2_200ep_pretrain.pth.tar",
    ),
    "imagenet-r50-vit-b16": Download(
        "https://storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz", "R50+ViT-B_16.npz"
    ),
}
"""Checkpoints with a public address (protocol 2; those from ImageNet as CEM500K's code, torchvision's and TransUNet's
README name them). Their SHA-256 is not published; torchvision's file name holds the first eight digits."""


# Reading


@dataclass(frozen=True)
class Published:
    """A published checkpoint under our names.

    Parameters
    ----------
    kind : Kind
    where : str
        The file, or words for it.
    tensors : dict
        As read, under the names of our networks; what a network has of its own is not in it.
    left_out : dict
        In words: names in the file of what is not taken over.
    norms : (float, float) or None
        Mean and standard deviation of 0..1 grey values, where the file says them.
    sha256 : str or None
        Of the file.
    """

    kind: Kind
    where: str
    tensors: dict[str, Tensor]
    left_out: dict[str, tuple[str, ...]]
    norms: tuple[float, float] | None = None
    sha256: str | None = None

    @property
    def hidden(self) -> int | None:
        """Width of a token; ``None`` without a transformer."""
        return hidden_size(self.tensors)

    @property
    def classes(self) -> int | None:
        """Channels of a fine-tuned network's logits."""
        head = self.tensors.get(HEAD)
        return len(head) if self.kind is FINE_TUNED and head is not None and head.ndim else None

    @property
    def description(self) -> str:
        """What it is, in one phrase."""
        size = f", hidden size {self.hidden}" if self.hidden else ""
        return f"{self.kind.title}{size}{f', classes {self.classes}' if self.classes else ''}"


@dataclass(frozen=True)
class Report:
    """What was loaded into a network.

    Parameters
    ----------
    published : Published
    loaded : tuple of str
        The network's entries that were replaced.
    left_out : dict
        In words: entries of the checkpoint that were not used.
    kept : tuple of str
        The network's entries that stay as they were.
    """

    published: Published
    loaded: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    kept: tuple[str, ...]


def read(source: Path | str | Mapping[str, Any], strip_prefix: str = "") -> Published:
    """Read and rename a published checkpoint.

    Parameters
    ----------
    source : Path, str or mapping
        A file, or what such a file holds. The kind is recognised by the names inside, not by the file's.
    strip_prefix : str
        What every name begins with and is to be cut off; prefixes that common wrappers add (``module.``,
        ``_orig_mod.``, ``model.``) are without being asked for.

    Raises
    ------
    BadInput
        Not a checkpoint, cut short, holding more than tensors, of no known kind, or with entries of no place.
    """
    if isinstance(source, Mapping):
        return _renamed("the given dictionary", source, None, strip_prefix)
    path = Path(source)
    return _renamed(str(path), safe_load.content(path), sha256(path), strip_prefix)


_NESTED = ("state_dict", "model_state_dict", "model")
"""Under what training scripts store the weights, beside the epoch and the optimiser."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.")
"""What torch's parallel and compiled modules, and frameworks around a network, put before every name."""


def _unwrapped(where: str, state: Mapping[str, Any], strip_prefix: str) -> tuple[Kind, Mapping[str, Any]]:
    """Return the kind of a state dict, and the state dict without the prefixes of wrappers."""
    if strip_prefix:
        if odd := [key for key in state if not str(key).startswith(strip_prefix)]:
            raise BadInput(f"{where}: {odd[0]} does not begin with {strip_prefix!r}; leave out --strip-prefix")
        state = {key.removeprefix(strip_prefix): value for key, value in state.items()}
    first = state
    while (kind := _recognised(where, state)) is None:
        prefix = next(iter(state), "").partition(".")[0] + "."
        if prefix not in _WRAPPERS or not all(key.startswith(prefix) for key in state):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    if kind is not None:
        return kind, state
    some = ", ".join(list(first)[:3]) or "nothing"
    known = "; ".join(each.title for each in KINDS)
    hint = ""
    if len(state) > 1 and prefix != "." and all(key.startswith(prefix) for key in state):
        hint = f"; every name begins with {prefix!r}: if that is a wrapper's, add --strip-prefix {prefix}"
    raise BadInput(
        f"{where}: none of the known checkpoints: {len(first)} entries ({some}, ...){hint}; known are: {known}"
    )


def _renamed(where: str, content: Mapping[str, Any], digest: str | None, strip_prefix: str = "") -> Published:
    inside = next((name for name in _NESTED if isinstance(content.get(name), Mapping)), None)
    state: Mapping[str, Any] = content if inside is None else content[inside]
    kind, state = _unwrapped(where, state, strip_prefix)
    tensors: dict[str, Tensor] = {}
    left_out: dict[str, list[str]] = {}
    faults = []
    for key, value in state.items():
        if not isinstance(value, Tensor | np.ndarray):
            faults.append(f"{where}: {key} is a {type(value).__name__}, not a tensor")
            continue
        if word := next((word for word, names in kind.left_out.items() if re.fullmatch(names, key)), None):
            left_out.setdefault(word, []).append(key)
            continue
        found = next(((rule, each) for rule in kind.rules if (each := re.fullmatch(rule.theirs, key))), None)
        if found is None:
            faults.append(f"{where}: no place for {key}")
            continue
        rule, groups = found
        ours = groups.expand(rule.ours)
        if ours in tensors:
            faults.append(f"{where}: {key} is there twice, with and without 'module.'")
            continue
        try:
            tensors[ours] = rule.convert(torch.as_tensor(value)).contiguous()
        except (RuntimeError, IndexError, TypeError, ValueError):
            faults.append(f"{where}: {key} is {tuple(value.shape)} of {value.dtype}, which cannot be {ours}")
    if faults:
        raise BadInput(sorted(faults))
    beside = {} if inside is None else {str(key): value for key, value in content.items() if key != inside}
    norms = _norms(where, beside.pop("norms")) if "norms" in beside else None
    if beside:
        left_out["beside the weights"] = list(beside)
    return Published(kind, where, tensors, {word: tuple(keys) for word, keys in left_out.items()}, norms, digest)


def _recognised(where: str, state: Mapping[str, Any]) -> Kind | None:
    if not all(isinstance(key, str) for key in state):
        raise BadInput(f"{where}: holds a dictionary whose keys are no names, not a state dict")
    for kind in KINDS:
        if any(re.fullmatch(kind.sign, key) and _has_channels(value, kind) for key, value in state.items()):
            return kind
    return None


def _has_channels(value: Any, kind: Kind) -> bool:
    return kind.channels is None or tuple(getattr(value, "shape", ()))[1:2] == (kind.channels,)


def _norms(where: str, value: Any) -> tuple[float, float]:
    try:
        mean, deviation = map(float, value)
    except (TypeError, ValueError):
        raise BadInput(f"{where}: norms are {str(value)[:80]!r}, expected (mean, standard deviation)") from None
    if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
        raise BadInput(f"{where}: norms are {mean}, {deviation}; expected a mean and a positive standard deviation")
    return mean, deviation


def load_published(path_or_dict: Path | str | Mapping[str, Any], network: nn.Module) -> Report:
    """Load a published checkpoint into a network.

    A fine-tuned TransUNet is loaded whole, and so is a pre-trained one into a
    :class:`~baselines.transunet_network.ReconstructionTransUNet`. Into a segmentation network go the encoder of a
    pre-trained TransUNet (protocol 7.1), of the ImageNet archive (its position embedding interpolated where the grid
    differs), and of MoCoV2 (into the UNet-ResNet50); nothing is frozen here.

    Parameters
    ----------
    path_or_dict : Path, str or mapping
        See :func:`read`.
    network : nn.Module
        :class:`~baselines.transunet_network.TransUNet` or a UNet-ResNet50 (:func:`baselines.unet_resnet50.unet`).

    Returns
    -------
    Report

    Raises
    ------
    BadInput
        What :func:`read` refuses; another network, hidden size or class count, in one line; otherwise one line for
        each entry without a place, each that lacks, each of another shape. The network is then unchanged.
    """
    published = read(path_or_dict)
    fit = _fit(published, network)
    fit.module.load_state_dict({**fit.module.state_dict(), **fit.tensors})
    loaded = tuple(f"{fit.prefix}{key}" for key in fit.tensors)
    return Report(
        published,
        loaded,
        published.left_out | ({"not of the encoder": fit.unused} if fit.unused else {}),
        tuple(key for key in network.state_dict() if key not in set(loaded)),
    )


@dataclass(frozen=True)
class _Fit:
    """Tensors for a module, which is found in the network under ``prefix``; ``unused`` are the others."""

    module: nn.Module
    prefix: str
    tensors: dict[str, Tensor]
    unused: tuple[str, ...] = ()


def _fit(published: Published, network: nn.Module) -> _Fit:
    kind, where, given = published.kind, published.where, published.tensors
    if kind.encoder_of:
        encoder = getattr(network, "encoder", None)
        if not isinstance(encoder, nn.Module):
            raise BadInput(f"{where}: {published.description}; it goes into a UNet-ResNet50, {_not_into(network)}")
        return _Fit(encoder, "encoder.", matched(where, given, encoder.state_dict()))
    if not isinstance(network, TransUNet):
        raise BadInput(f"{where}: {published.description}; it goes into a TransUNet, {_not_into(network)}")
    check_size(f"{where}: {published.description}", given, network)
    own = network.state_dict()
    if published.classes and published.classes != len(own[HEAD]):
        raise BadInput(f"{where}: {published.description}; the network has {len(own[HEAD])}")
    if kind is FINE_TUNED or (kind is RECONSTRUCTION and isinstance(network, ReconstructionTransUNet)):
        return _Fit(network, "", matched(where, given, own))
    if kind is IMAGENET and POSITIONS in given:
        given = {**given, POSITIONS: _on_grid(given[POSITIONS], network.transformer.embeddings.grid)}
    encoder_only = {key: tensor for key, tensor in own.items() if key.startswith(ENCODER)}
    found = matched(where, given, encoder_only, AFTER_ENCODER)
    return _Fit(network, "", found, tuple(key for key in given if key not in found))


def _not_into(network: nn.Module) -> str:
    return f"not into a {type(network).__name__}"


def _on_grid(positions: Tensor, grid: int) -> Tensor:
    """Return a position embedding (1, tokens, hidden) interpolated bicubically to ``grid`` x ``grid`` tokens."""
    side = math.isqrt(positions.shape[1]) if positions.ndim == 3 else 0
    if side == grid or side == 0 or side**2 != positions.shape[1]:
        return positions  # as it should be; or of a shape that is refused next
    map_CYX = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    return F.interpolate(map_CYX, size=(grid, grid), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)


# From the command line


def inspect(path: Path, strip_prefix: str = "") -> Published:
    """Return what a published checkpoint is, after checking that the published network of its size takes all of it.

    Raises
    ------
    BadInput
        As :func:`load_published`.
    """
    published = read(path, strip_prefix)
    _fit(published, _published_network(published))
    return published


def _model_name(published: Published) -> str:
    """Return the registered name of the model that a pre-training's network is of."""
    if published.kind.encoder_of:
        return published.kind.encoder_of
    same_size = published.hidden == TransUNetModel.hidden
    return TransUNetModel.name if same_size else f"{TransUNetModel.name}-{published.hidden}"


def _published_network(published: Published) -> nn.Module:
    """Return, without its numbers, the network that a checkpoint is of; a perceptron is four times as wide as a token.

    The number of heads changes no shape.
    """
    with torch.device("meta"):
        if published.kind.encoder_of:
            return unet(1, "full") if published.kind.encoder_of == UNetResNet50.name else rgb_unet(1, "full")
        hidden = published.hidden or 0
        size: dict[str, Any] = {"hidden": hidden, "mlp": 4 * hidden, "heads": 1}
        if published.kind is RECONSTRUCTION:
            return ReconstructionTransUNet(**size)
        return TransUNet(published.classes or 1, **size)


def import_published(
    path: Path,
    data: str | None = None,
    *,
    out: Path | None = None,
    norms: Sequence[float] | None = None,
    folder: Path | None = None,
    force: bool = False,
    strip_prefix: str = "",
    model: str | None = None,
) -> Path:
    """Write a published pre-training as one of our checkpoints, so that ``embench run`` starts from it.

    Parameters
    ----------
    path : Path
    data : str
        What it was trained on, as its user says; by default ``imagenet`` for the archive from there, else ``unknown``.
    out : Path, optional
        Default: where ``embench run`` looks for a pre-training of that method on ``data``.
    norms : sequence of two float, optional
        Mean and standard deviation of 0..1 grey values; by default the file's, or the published ones of ``cem500k``.
    folder : Path, optional
        The data folder.
    force : bool
        Replace another checkpoint at ``out``.
    strip_prefix : str
        As in :func:`read`.
    model : str, optional
        The network that the pre-training began with, where its file cannot tell: ``transunet-imagenet`` for a
        reconstruction that itself started from ImageNet weights (default: one of random weights).

    Raises
    ------
    BadInput
        As :func:`inspect`; a network of another size, or already fine-tuned; norms that are needed and not known;
        ``out`` taken.
    """
    if data is not None:
        check_name(data, "--data")
    if out and out.suffix != ".safetensors":
        raise BadInput(f"--out {out}: give a name that ends in .safetensors")
    published = inspect(path, strip_prefix)
    began = _model_name(published)
    if model is not None and model != began:
        if published.kind is not RECONSTRUCTION or began != TransUNet768.name or model != TransUNetImageNet.name:
            allowed = f"{began} or {TransUNetImageNet.name}" if began == TransUNet768.name else began
            raise BadInput(f"--model {model}: {path} is {published.description}, of {allowed}")
        began = model
    method = published.kind.method
    if method is None:
        raise BadInput(
            f"{path}: {published.description}: already trained for a task, so nothing starts from it; "
            "load it with baselines.published_weights.load_published"
        )
    data = data or published.kind.data
    known = CEM500K_NORMS if data == "cem500k" and published.kind is not IMAGENET else None
    pair = published.norms or known if norms is None else _norms("--norms", norms)
    if published.kind.encoder_of == UNetResNet50.name and pair is None:
        raise BadInput(f"{path}: holds no norms, which its networks need; add --norms MEAN,STD or --data cem500k")
    assert published.sha256 is not None
    card = ImportedCard(
        method=method,
        model=began,
        data=data,
        data_hash=None,
        scale="full",
        norms=pair,
        synthetic=False,
        options={"hidden": published.hidden} if published.hidden else {},
        source=path.name,
        source_hash=published.sha256,
        kind=published.kind.name,
        left_out={word: len(keys) for word, keys in published.left_out.items()},
    )
    other = None if published.kind.encoder_of or published.kind is IMAGENET else card.model
    other = None if other == TransUNetModel.name else other
    out = out or weights_path(method, data, "full", folder, other)
    if out.exists() and not force:
        if load_weights(out).card == card:
            return out
        raise BadInput(f"{out}: another checkpoint is there; choose another --out, or add --force to replace it")
    save_weights(out, {key: tensor.clone() for key, tensor in published.tensors.items()}, card)  # none share memory
    return out


def fetch_published(name: str, folder: Path | None = None) -> download.Fetched:
    """Download a checkpoint that has a public address; see :data:`DOWNLOADS`.

    Raises
    ------
    BadInput
        Unknown name, or what :func:`embench.data.download.fetch` refuses.
    """
    if name not in DOWNLOADS:
        raise unknown("published checkpoint", name, DOWNLOADS)
    dataset = Dataset(name=name, tasks=(), read=lambda source, name: iter(()), downloads=(DOWNLOADS[name],))
    try:
        [found] = download.fetch(dataset, folder or data_folder())
    except BadInput as error:
        prepares = f"embench prepare {name} --source FILE|ZIP|DIR"
        raise BadInput([line.replace(prepares, "embench checkpoint import FILE") for line in error.lines]) from error
    return found
