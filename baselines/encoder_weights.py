"""Weights of one encoder, from anybody's file or from the library's own place, as a checkpoint that models start from.

A file's entries are renamed by prefixes that its user states, then by timm's own reading of the releases it knows.
Nothing is loaded in silence: what has no place, lacks or has another shape is refused, but for heads that no encoder
has. A first layer for colours becomes one for grey images by the sum over its channels, as timm has it: the same as
the grey image three times.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from baselines import safe_load
from baselines.smp_models import SMPModel
from baselines.vit import ViTModel
from embench.core.errors import BadInput
from embench.core.files import sha256
from embench.models.base import TorchModel
from embench.models.checkpoints import ImportedCard, load_weights, save_weights, weights_path
from embench.models.registry import find_model

GREY_OF_IMAGENET = (0.449, 0.226)
"""Mean and deviation of ImageNet's three channels on average, under which an encoder for colours sees grey images."""
HEADS = ("head", "fc", "classifier", "last_linear", "fc_norm", "neck", "attn_pool", "mask_token", "cls_token_head")
"""First part of the names of what follows an encoder, or serves its pre-training alone."""
_NESTED = ("state_dict", "model", "teacher", "student", "module", "model_state_dict")
_NAMED = 3


def import_encoder(
    path: Path,
    spec: str,
    data: str,
    *,
    prefixes: Sequence[str] = (),
    norms: tuple[float, float] | None = None,
    out: Path | None = None,
    folder: Path | None = None,
    force: bool = False,
) -> Path:
    """Write the encoder in a file as a checkpoint that the model ``spec`` starts from.

    Parameters
    ----------
    path : Path
        ``.safetensors``, ``.pth`` or ``.pt``; tensors alone are read.
    spec : str
        ``vit:NAME:START`` or ``smp:ARCHITECTURE:ENCODER:START``.
    data : str
        The set it was trained on.
    prefixes : sequence of str
        Each ``THEIRS=OURS``: entries that begin with THEIRS are taken, under OURS and the rest of their name; all
        others are left out. By default every entry is taken as it is called.
    norms : (float, float), optional
        Mean and standard deviation of 0..1 grey values; by default ImageNet's.
    out, folder, force
        As of ``embench checkpoint import``.

    Raises
    ------
    BadInput
        No such file or model; weights of another encoder: which entries do not fit.
    """
    model = _started(spec)
    found, left_out = _prefixed(_content(path), prefixes, path)
    tensors = fitted(found, _encoder(model), path)
    beside = [name for name in found if name.partition(".")[0] in HEADS]
    counts = {"other prefixes": left_out, "heads": len(beside)}
    return _save(
        model,
        tensors,
        data,
        norms or GREY_OF_IMAGENET,
        source=path.name,
        digest=sha256(path),
        left_out={word: count for word, count in counts.items() if count},
        out=out,
        folder=folder,
        force=force,
    )


def fetch_encoder(spec: str, *, folder: Path | None = None, force: bool = False) -> Path:
    """Download the library's own weights of the encoder of ``spec``, and write them as its checkpoint.

    Raises
    ------
    BadInput
        The library has none, or cannot be reached.
    """
    model = _started(spec)
    try:
        encoder = _downloaded(model)
    except Exception as error:  # of the library, of its hub, of the network
        said = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise BadInput(
            f"{spec}: the library's weights cannot be had ({said}); bring in a file with: embench checkpoint import"
        ) from None
    tensors = dict(encoder.state_dict())
    digest = hashlib.sha256(b"".join(each.cpu().numpy().tobytes() for each in tensors.values())).hexdigest()
    return _save(
        model,
        {f"encoder.{name}": tensor for name, tensor in tensors.items()},
        model.pretraining_data or "imagenet",
        GREY_OF_IMAGENET,
        source="the library's own",
        digest=digest,
        left_out={},
        out=None,
        folder=folder,
        force=force,
    )


def fitted(given: Mapping[str, Tensor], encoder: nn.Module, where: object) -> dict[str, Tensor]:
    """Return the tensors of an encoder for grey images under the names ``encoder.NAME``.

    Parameters
    ----------
    given : mapping of str to Tensor
        Under the encoder's names, or those of a release that timm reads.
    encoder : nn.Module
    where : object
        What to call their source in an error.

    Raises
    ------
    BadInput
        In one line: how many entries have no place, lack, or have another shape, with the first of each.
    """
    own = encoder.state_dict()
    found = dict(given)
    if not own.keys() <= found.keys() or any(found[name].shape != own[name].shape for name in own):
        found = _read_by_timm(found, encoder)
    for name, tensor in own.items():
        theirs = found.get(name)
        if theirs is not None and theirs.ndim == 4 and theirs.shape[1] == 3 and tensor.shape[1] == 1:
            found[name] = theirs.float().sum(1, keepdim=True)
    faults = {
        "have no place": [name for name in found if name not in own and name.partition(".")[0] not in HEADS],
        "lack": [name for name in own if name not in found],
        "have another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in found and found[name].shape != own[name].shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
            for what, names in faults.items()
            if names
        )
        raise BadInput(f"{where}: weights of another encoder than {type(encoder).__name__}: {told}")
    return {f"encoder.{name}": found[name].contiguous() for name in own}


def _started(spec: str) -> TorchModel:
    model = find_model(spec)
    if not isinstance(model, SMPModel | ViTModel) or model.pretraining is None:
        raise BadInput(f"--model {spec}: give vit:NAME:START or smp:ARCHITECTURE:ENCODER:START")
    return model


def _encoder(model: TorchModel) -> nn.Module:
    network: Any = model.network(1)
    return network.encoder


def _content(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{path}: cannot be read ({' '.join(str(error).split())[:160]})") from None
    content: Any = safe_load.content(path)
    while nested := next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), None):
        content = nested
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BadInput(f"{path}: holds no tensors by name ({', '.join(map(str, list(content)[:_NAMED]))}, ...)")
    return tensors


def _prefixed(given: dict[str, Tensor], prefixes: Sequence[str], path: Path) -> tuple[dict[str, Tensor], int]:
    """Return what is taken, under our names, and how many entries are left out."""
    if not prefixes:
        return given, 0
    found: dict[str, Tensor] = {}
    for each in prefixes:
        theirs, equals, ours = each.partition("=")
        taken = {name: tensor for name, tensor in given.items() if name.startswith(theirs)}
        if not equals or not taken:
            some = ", ".join(list(given)[:_NAMED])
            raise BadInput(f"--key-map {each}: give THEIRS=OURS, where {path} has names such as {some}")
        found |= {ours + name.removeprefix(theirs): tensor for name, tensor in taken.items()}
    return found, len(given) - len(found)


def _read_by_timm(given: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Return the entries as timm reads a release of this architecture; as they are where it knows none."""
    read = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if read is None:
        return given
    try:
        return dict(read(dict(given), encoder))
    except Exception:  # not a release that it knows: what does not fit is told by name
        return given


def _downloaded(model: TorchModel) -> nn.Module:
    if isinstance(model, SMPModel):
        import segmentation_models_pytorch as smp

        return smp.encoders.get_encoder(model.encoder, in_channels=1, weights="imagenet")
    from baselines.vit_network import encoder_of

    assert isinstance(model, ViTModel)
    return encoder_of(model.encoder, pretrained=True)


def _save(
    model: TorchModel,
    tensors: dict[str, Tensor],
    data: str,
    norms: tuple[float, float],
    *,
    source: str,
    digest: str,
    left_out: dict[str, int],
    out: Path | None,
    folder: Path | None,
    force: bool,
) -> Path:
    assert model.pretraining is not None
    card = ImportedCard(
        method=model.pretraining,
        model=model.base.name,
        data=data,
        data_hash=None,
        scale="full",
        norms=norms,
        synthetic=False,
        source=source,
        source_hash=digest,
        kind="encoder",
        left_out=left_out,
    )
    out = out or weights_path(model.pretraining, data, "full", folder, model.base.name)
    if out.exists() and not force:
        if load_weights(out).card == card:
            return out
        raise BadInput(f"{out}: another checkpoint is there; choose another --out, or add --force to replace it")
    save_weights(out, tensors, card)
    return out
