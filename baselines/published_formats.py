"""Formats of published checkpoints: what marks each, and how its tensors are renamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

ENCODER = "transformer."
AFTER_ENCODER = ("decoder.", "FinalDecoder.", "segmentation_head.")
POSITIONS = "transformer.embeddings.position_embeddings"
HEAD = "segmentation_head.0.weight"


# The maps


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _filters(tensor: Tensor) -> Tensor:
    """(Y, X, I, O) to (O, I, Y, X)."""
    return tensor.permute(3, 2, 0, 1)


def _flat(tensor: Tensor) -> Tensor:
    """(1, 1, 1, C) or (heads, size) to a vector."""
    return tensor.flatten()


def _into_heads(tensor: Tensor) -> Tensor:
    """(in, heads, size) or (in, out) to (out, in)."""
    return tensor.flatten(1).t()


def _out_of_heads(tensor: Tensor) -> Tensor:
    """(heads, size, out) to (out, in)."""
    return tensor.flatten(0, -2).t()


def _without_class_token(tensor: Tensor) -> Tensor:
    """(1, 1 + tokens, hidden) to (1, tokens, hidden)."""
    return tensor[:, 1:]


@dataclass(frozen=True)
class Rule:
    """Where entries go: a pattern of their whole names, our name (with its groups), and how the tensor changes."""

    theirs: str
    ours: str
    convert: Callable[[Tensor], Tensor] = _same


@dataclass(frozen=True)
class Kind:
    """A format of checkpoint.

    Parameters
    ----------
    name, title : str
    sign : str
        Pattern of the name of an entry that this kind has and those after it have not.
    rules : tuple of Rule
    method : str or None
        The pre-training it stands for; ``None``: a network already trained for a task.
    left_out : dict
        What is knowingly not taken over: in words, and a pattern of names.
    data : str
        What networks of this kind were trained on, where that is always the same.
    encoder_of : str
        The model whose ResNet50 it is; empty: of a TransUNet.
    channels : int or None
        Input channels of the entry that ``sign`` names, where those tell kinds of the same names apart.
    """

    name: str
    title: str
    sign: str
    rules: tuple[Rule, ...]
    method: str | None
    left_out: dict[str, str]
    data: str = "unknown"
    encoder_of: str = ""
    channels: int | None = None


def _scale_and_bias(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{theirs}/scale", f"{ours}.weight", _flat), Rule(f"{theirs}/bias", f"{ours}.bias", _flat)


def _dense(theirs: str, ours: str, convert: Callable[[Tensor], Tensor] = _into_heads) -> tuple[Rule, Rule]:
    return Rule(f"{theirs}/kernel", f"{ours}.weight", convert), Rule(f"{theirs}/bias", f"{ours}.bias", _flat)


def _imagenet_rules() -> tuple[Rule, ...]:
    resnet, unit = r"transformer.embeddings.hybrid_model", r"block([123])/unit(\d+)"
    body = rf"{resnet}.body.block\1.unit\2"
    block, layer = r"Transformer/encoderblock_(\d+)", r"transformer.encoder.layer.\1"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    return (
        Rule("conv_root/kernel", f"{resnet}.root.conv.weight", _filters),
        *_scale_and_bias("gn_root", f"{resnet}.root.gn"),
        Rule(f"{unit}/conv([123])/kernel", rf"{body}.conv\3.weight", _filters),
        *_scale_and_bias(f"{unit}/gn([123])", rf"{body}.gn\3"),
        Rule(f"{unit}/conv_proj/kernel", f"{body}.downsample.weight", _filters),
        *_scale_and_bias(f"{unit}/gn_proj", f"{body}.gn_proj"),
        *_dense("embedding", "transformer.embeddings.patch_embeddings", _filters),
        Rule("Transformer/posembed_input/pos_embedding", POSITIONS, _without_class_token),
        *_scale_and_bias(f"{block}/LayerNorm_0", f"{layer}.attention_norm"),
        *_dense(f"{attention}/(query|key|value)", rf"{layer}.attn.\2"),
        *_dense(f"{attention}/out", f"{layer}.attn.out", _out_of_heads),
        *_scale_and_bias(f"{block}/LayerNorm_2", f"{layer}.ffn_norm"),
        *_dense(f"{block}/MlpBlock_3/Dense_0", f"{layer}.ffn.fc1"),
        *_dense(f"{block}/MlpBlock_3/Dense_1", f"{layer}.ffn.fc2"),
        *_scale_and_bias("Transformer/encoder_norm", "transformer.encoder.encoder_norm"),
    )


_TRANSUNET = (Rule(r"(?:module\.)?((?:transformer|decoder|FinalDecoder|segmentation_head)\..+)", r"\1"),)

RECONSTRUCTION = Kind(
    "reconstruction",
    "TransUNet from reconstruction pre-training",
    r"(module\.)?FinalDecoder\.conv1\.weight",
    _TRANSUNET,
    "retina",
    {},
)
FINE_TUNED = Kind(
    "fine-tuned",
    "fine-tuned TransUNet",
    r"(module\.)?transformer\.encoder\.encoder_norm\.weight",
    _TRANSUNET,
    None,
    {},
)
_RESNET = r"((?:conv1|bn1|layer[1-4])\..+)"
_MOCOV2 = (Rule(rf"(?:module\.)?encoder_q\.{_RESNET}", r"\1"),)
_BESIDE_MOCOV2 = {
    "projection head": r"(module\.)?encoder_q\.fc\.[02]\.(weight|bias)",
    "momentum encoder": r"(module\.)?encoder_k\..+",
    "queue": r"(module\.)?queue(_ptr)?",
}

IMAGENET_MOCOV2 = Kind(
    "imagenet-mocov2",
    "ResNet50 for colours from MoCoV2 pre-training",
    r"(module\.)?encoder_q\.conv1\.weight",
    _MOCOV2,
    "imagenet-mocov2",
    _BESIDE_MOCOV2,
    data="imagenet",
    encoder_of="unet-resnet50-rgb",
    channels=3,
)
MOCOV2 = Kind(
    "mocov2",
    "ResNet50 from MoCoV2 pre-training",
    r"(module\.)?encoder_q\.conv1\.weight",
    _MOCOV2,
    "mocov2",
    _BESIDE_MOCOV2,
    encoder_of="unet-resnet50",
)
SWAV = Kind(
    "swav",
    "ResNet50 from SwAV pre-training",
    r"(module\.)?(projection_head\.0|prototypes)\.weight",
    (Rule(rf"(?:module\.)?{_RESNET}", r"\1"),),
    "swav",
    {
        "projection head": r"(module\.)?projection_head\..+",
        "prototypes": r"(module\.)?prototypes\..+",
    },
    encoder_of="unet-resnet50",
)
SUPERVISED = Kind(
    "imagenet-supervised",
    "ResNet50 from supervised ImageNet training, as torchvision writes it",
    r"conv1\.weight",
    (Rule(_RESNET, r"\1"),),
    "imagenet-supervised",
    {"classification head": r"fc\.(weight|bias)"},
    data="imagenet",
    encoder_of="unet-resnet50-rgb",
    channels=3,
)
IMAGENET = Kind(
    "imagenet",
    "ResNet and Vision Transformer from ImageNet",
    "Transformer/encoder_norm/scale",
    _imagenet_rules(),
    "imagenet",
    {"classification head": r"(head|pre_logits)/(kernel|bias)", "class token": "cls"},
    data="imagenet",
)
KINDS = (RECONSTRUCTION, FINE_TUNED, IMAGENET_MOCOV2, MOCOV2, SWAV, SUPERVISED, IMAGENET)
