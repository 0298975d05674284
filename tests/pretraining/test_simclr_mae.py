"""Pre-training of one part of TransUNet's encoder: SimCLR of its convolutions, masked autoencoding of its layers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.mae import DECODER, MAE, MaskedAutoencoder, image_of, patches_of, positions
from baselines.simclr import Contrast, SimCLR, nt_xent
from baselines.transunet_network import Encoder
from baselines.views import OneView
from embench.training.optim import warm_cosine


def unit(seed: int, count: int = 4, dimensions: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, dimensions, generator=generator), dim=1)


# SimCLR


def test_nt_xent_is_the_mean_over_views_of_the_published_formula() -> None:
    first, second, temperature = unit(1), unit(2), 0.3
    views = torch.cat((first, second))
    losses = []
    for i, view in enumerate(views):
        likeness = (views @ view / temperature).exp()
        others = sum(likeness[k] for k in range(len(views)) if k != i)
        losses.append(-(likeness[(i + len(first)) % len(views)] / others).log())
    torch.testing.assert_close(nt_xent(first, second, temperature), torch.stack(losses).mean())


def test_nt_xent_is_least_where_both_views_agree_and_all_images_differ() -> None:
    apart = torch.eye(8)
    assert nt_xent(apart, apart) < 0.01 < nt_xent(apart, apart.roll(1, dims=0))
    torch.testing.assert_close(nt_xent(apart[:1].expand(8, -1), apart[:1].expand(8, -1)), torch.tensor(15.0).log())


def test_simclr_decays_and_adapts_filters_and_leaves_biases_and_norms() -> None:
    method = SimCLR()
    module = method.module(method.settings("tiny"), 16)
    filters, vectors = method.optimiser(module.parameters(), 0.3).param_groups
    assert {p.ndim for p in vectors["params"]} == {1}
    assert {p.ndim for p in filters["params"]} == {2, 4}
    assert (filters["weight_decay"], vectors["weight_decay"]) == (1e-6, 0.0)
    assert sum(map(len, (filters["params"], vectors["params"]))) == len(list(module.parameters()))


def test_simclr_learns_to_tell_images_apart() -> None:
    torch.manual_seed(0)
    method = SimCLR()
    module = method.module(method.settings("tiny"), 16)
    optimiser = method.optimiser(module.parameters(), 0.3)
    images = torch.randn(8, 1, 8, 8).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    losses = []
    for _ in range(15):
        loss = method.loss(module, (images, images + 0.1 * torch.randn_like(images)))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


TOGETHER = """
import sys
import torch
from torch import distributed
sys.path.insert(0, sys.argv[1])
from baselines.simclr import nt_xent
from test_simclr_mae import unit

distributed.init_process_group("gloo")
rank = distributed.get_rank()
table = torch.nn.Linear(5, 5, bias=False)
torch.nn.init.eye_(table.weight)
module = torch.nn.parallel.DistributedDataParallel(table)
loss = nt_xent(*(module(unit(seed)[rank::2]) for seed in (1, 2)))
loss.backward()
distributed.all_reduce(loss.detach_())
if rank == 0:
    torch.save([loss / 2, table.weight.grad], sys.argv[2])
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    (tmp_path / "together.py").write_text(TOGETHER)
    out = tmp_path / "made.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(tmp_path / "together.py"), str(Path(__file__).parents[1]), str(out)]
    made = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    weight = torch.eye(5, requires_grad=True)
    loss = nt_xent(*(unit(seed) @ weight.T for seed in (1, 2)))
    loss.backward()
    torch.testing.assert_close(torch.load(out, weights_only=True), [loss.detach(), weight.grad])


# Masked autoencoding


def autoencoder(**settings: Any) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(Encoder(16, 32, 1, 2, 0.0, 0.0), 16, **{"hidden": 32, "layers": 1, "heads": 4} | settings)


def test_patches_are_squares_of_16_pixels_row_by_row_and_come_back_as_the_image() -> None:
    image = torch.randn(2, 1, 32, 48)
    patches = patches_of(image)
    assert patches.shape == (2, 6, 256)
    assert torch.equal(patches[1, 4], image[1, 0, 16:, 16:32].flatten())
    assert torch.equal(image_of(patches, image.shape[2:]), image)


def test_every_place_has_a_position_of_its_own_that_only_its_row_and_column_make() -> None:
    grid = positions(3, 5, 16, torch.device("cpu")).unflatten(0, (3, 5))
    assert len({tuple(place) for place in grid.flatten(0, 1).tolist()}) == 15
    assert torch.equal(grid[1, :, :8], grid[1, :1, :8].expand(5, -1))
    assert torch.equal(grid[:, 2, 8:], grid[:1, 2, 8:].expand(3, -1))
    torch.testing.assert_close(grid[0, 0], torch.tensor([0.0, 1.0]).repeat_interleave(4).repeat(2))


def test_encoder_sees_a_quarter_of_the_patches_and_the_prediction_knows_no_other() -> None:
    module = autoencoder()
    seen: list[Tensor] = []
    module.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.randn(3, 1, 64, 64)
    torch.manual_seed(1)
    predicted, hidden = module(image)
    assert seen[0].shape == (3, 4, 16)
    assert hidden.sum(dim=1).tolist() == [12, 12, 12]
    other = torch.where(hidden[:, :, None], torch.randn(3, 16, 256), patches_of(image))
    torch.manual_seed(1)
    again, hidden_again = module(image_of(other, image.shape[2:]))
    assert torch.equal(hidden, hidden_again)
    torch.testing.assert_close(again, predicted)
    assert torch.unique(hidden, dim=0).shape[0] == 3  # each image has others hidden


def test_loss_counts_hidden_patches_alone_each_brought_to_mean_0_and_variance_1() -> None:
    image = 5 + 3 * torch.randn(2, 1, 32, 32)
    patches = patches_of(image)
    exact = (patches - patches.mean(2, keepdim=True)) / patches.std(2, keepdim=True)
    hidden = torch.tensor([[True, True, True, False], [False, True, True, True]])

    def answering(predicted: Tensor) -> Any:
        return lambda view: (predicted, hidden)

    wrong_where_seen = torch.where(hidden[:, :, None], exact, torch.inf).nan_to_num(posinf=99.0)
    assert MAE().loss(answering(wrong_where_seen), (image,)) < 1e-6
    grey = MAE().loss(answering(torch.zeros_like(exact)), (image,))
    torch.testing.assert_close(grey, torch.tensor(255 / 256), rtol=1e-3, atol=0)


def test_pictures_keep_what_was_seen_and_fill_in_the_rest() -> None:
    torch.manual_seed(0)
    columns = MAE().pictures(autoencoder(), (torch.randn(2, 1, 64, 64),))
    assert list(columns) == ["input", "masked", "filled in"]
    image, masked, filled = (patches_of(column) for column in columns.values())
    hidden = (masked == 0).all(dim=2)
    assert hidden.float().mean() == 0.75
    assert torch.equal(filled[~hidden], image[~hidden])
    assert (filled[hidden] != image[hidden]).all(dim=1).all()


def test_one_view_is_a_window_of_the_image() -> None:
    """Of an image whose grey value is its column, a view's rows are all alike, and its columns in order."""
    image = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    for seed in range(5):
        (view,) = OneView(32)(image, np.random.default_rng(seed))
        assert view.shape == (32, 32)
        assert (np.ptp(view, axis=0) <= 1).all()
        steps = np.diff(view[0].astype(int))
        assert (steps >= 0).all() or (steps <= 0).all()
        assert np.ptp(view) > 16  # at least a fifth of the area at a ratio of at most 4/3


# Both


def test_rate_rises_for_a_twentieth_of_the_steps_and_falls_along_a_cosine_to_0() -> None:
    rates = [warm_cosine(step, 200) for step in range(200)]
    assert rates[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[105] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
    assert warm_cosine(0, 1) == 1


@pytest.mark.parametrize(
    ("method", "beginning"), [(SimCLR(), "transformer.embeddings.hybrid_model."), (MAE(), "transformer.encoder.")]
)
def test_all_that_is_written_is_the_named_part_of_transunet(method: Any, beginning: str) -> None:
    module = method.module(method.settings("tiny"), 16)
    network = method.model.at("tiny").network(1).state_dict()
    assert set(method.weights(module)) == {name for name in network if name.startswith(beginning)}
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert isinstance(module, Contrast | MaskedAutoencoder)


def test_full_size_decoder_is_that_of_the_published_masked_autoencoder() -> None:
    assert DECODER["full"] == {"hidden": 512, "layers": 8, "heads": 16}
