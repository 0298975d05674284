"""Checkpoints as training scripts leave them: prefixes of wrappers go, others are named with what removes them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import published_weights
from baselines.transunet import ImageNetStart, TransUNetImageNet
from baselines.transunet_network import ReconstructionTransUNet, TransUNet
from embench.core.errors import BadInput
from embench.models.checkpoints import load_weights
from embench.pretraining.initial_checkpoint import fits
from retina.adapter import Retina768, RetinaImageNetCEM


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = TransUNet(1).state_dict()
    return {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "model._orig_mod."])
@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict"])
def test_wrappers_are_taken_off(
    prefix: str, nested: str | None, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    renamed = {f"{prefix}{key}": value for key, value in state.items()}
    found = published_weights.read(renamed if nested is None else {nested: renamed, "epoch": 3})
    assert len(found.tensors) == len(state)
    assert found.left_out.get("beside the weights") == (None if nested is None else ("epoch",))


def test_an_unknown_prefix_is_named_and_removed_when_asked_for(state: dict[str, torch.Tensor]) -> None:
    renamed = {f"student.{key}": value for key, value in state.items()}
    with pytest.raises(BadInput, match=r"every name begins with 'student\.'.*--strip-prefix student\."):
        published_weights.read(renamed)
    assert len(published_weights.read(renamed, "student.").tensors) == len(state)
    with pytest.raises(BadInput, match="leave out --strip-prefix"):
        published_weights.read(renamed, "teacher.")


def test_a_refused_file_says_what_to_save_instead(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "best": np.float64(0.5), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(BadInput, match=r"could run code; refused.*torch\.save\(network\.state_dict\(\), FILE\)"):
        published_weights.read(tmp_path / "a.pth")


@pytest.mark.slow
def test_a_reconstruction_that_began_with_imagenet_is_that_of_its_own_model(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = ReconstructionTransUNet(hidden=768, mlp=3072).state_dict()
    torch.save({key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes.items()}, tmp_path / "a.pth")
    options = {"data": "cem500k", "folder": tmp_path}
    plain = load_weights(published_weights.import_published(tmp_path / "a.pth", **options))  # type: ignore[arg-type]
    began = load_weights(
        published_weights.import_published(tmp_path / "a.pth", model="transunet-imagenet", **options)  # type: ignore[arg-type]
    )
    assert (fits(Retina768(), plain.card), fits(RetinaImageNetCEM(), plain.card)) == (True, False)
    assert (fits(Retina768(), began.card), fits(RetinaImageNetCEM(), began.card)) == (False, True)
    with pytest.raises(BadInput, match="of transunet-768 or transunet-imagenet"):
        published_weights.import_published(tmp_path / "a.pth", model="retina", **options)  # type: ignore[arg-type]


def test_the_imagenet_start_freezes_what_the_published_script_freezes() -> None:
    with torch.device("meta"):
        network = TransUNet(1, hidden=768, mlp=3072)
    frozen = [key for key, _ in network.named_parameters() if key.startswith(TransUNetImageNet.frozen)]
    assert len(frozen) == 194
    assert ImageNetStart.frozen == ()  # a further pre-training trains all of it
    assert (ImageNetStart.name, RetinaImageNetCEM.base) == (TransUNetImageNet.name, ImageNetStart)
