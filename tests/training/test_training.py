"""Schedules and losses equal the reference; a trial resumes to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from embench.core.errors import BadInput, Diverged
from embench.training.losses import loss_of
from embench.training.optim import optimiser, polynomial, resume_optimiser
from embench.training.recipe import RECIPES, RETINA, UNET, Recipe, find_recipe
from embench.training.registries import LOSSES
from embench.training.state import load_state, save_state

SCHEDULES = json.loads((Path(__file__).parents[1] / "files/golden/schedules.json").read_text())


def rates_used(name: str) -> tuple[list[float], list[float]]:
    parameter = nn.Parameter(torch.zeros(1))
    made, schedule = optimiser(RECIPES[name], [parameter], 100)
    rates, betas = [], []
    for _ in range(100):
        group = made.param_groups[0]
        rates.append(group["lr"])
        betas.append(group.get("betas", (0.0,))[0])
        made.step()
        schedule.step()
    return rates, betas


def test_onecycle_uses_the_published_rates_and_betas() -> None:
    rates, betas = rates_used("unet")
    np.testing.assert_allclose(rates, SCHEDULES["onecycle_total100_max0.003"], rtol=1e-9)
    np.testing.assert_allclose(betas, SCHEDULES["onecycle_beta1"], rtol=1e-9)


def test_polynomial_uses_the_full_rate_in_the_first_two_steps() -> None:
    rates, _ = rates_used("retina")
    np.testing.assert_allclose(rates, SCHEDULES["poly_power0.9_total100_base0.003"], rtol=1e-12)
    assert polynomial(0, 100) == polynomial(1, 100) == 1


@pytest.mark.parametrize("recipe", [RETINA, UNET], ids=lambda recipe: recipe.optimiser)
@pytest.mark.parametrize("back", [False, True])
def test_a_state_goes_on_with_the_same_numbers_in_another_memory_format(
    recipe: Recipe, back: bool, tmp_path: Path
) -> None:
    before, after = (torch.channels_last, torch.contiguous_format)[:: -1 if back else 1]
    gradients = torch.randn(3, 8, 16, 3, 3, generator=torch.Generator().manual_seed(0))

    def steps(conv: nn.Conv2d, stepper: torch.optim.Optimizer, some: Tensor) -> None:
        for gradient in some:
            conv.weight.grad = torch.empty_like(conv.weight).copy_(gradient)
            stepper.step()

    def made(memory_format: torch.memory_format) -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        conv = nn.Conv2d(16, 8, 3, bias=False).to(memory_format=memory_format)  # type: ignore[call-overload]
        return conv, optimiser(recipe, conv.parameters(), 10)[0]

    whole = made(before)
    steps(*whole, gradients)
    first = made(before)
    steps(*first, gradients[:2])
    save_state({"network": first[0].state_dict(), "optimiser": first[1].state_dict()}, tmp_path / "state")
    state = load_state(tmp_path / "state")
    assert state is not None
    second = made(after)
    second[0].load_state_dict(state["network"])
    resume_optimiser(second[1], state["optimiser"])
    steps(*second, gradients[2:])
    assert second[0].weight.is_contiguous(memory_format=after)
    torch.testing.assert_close(second[0].weight, whole[0].weight)


def test_recipes_hold_the_published_figures() -> None:
    assert (UNET.optimiser, UNET.learning_rate, UNET.weight_decay, UNET.loss) == ("adamw", 0.003, 0.1, "cross-entropy")
    assert (RETINA.optimiser, RETINA.learning_rate, RETINA.weight_decay, RETINA.momentum) == ("sgd", 0.003, 1e-4, 0.9)
    assert RETINA.crop == 224
    assert find_recipe("retina-tiny").crop == 64
    with pytest.raises(BadInput, match="did you mean retina"):
        find_recipe("retinna")


@pytest.mark.parametrize("kind", LOSSES.names())
@pytest.mark.parametrize("channels", [1, 4])
def test_a_perfect_prediction_has_a_lower_loss_than_any_other(kind: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    target = torch.randint(0, max(2, channels), (2, 8, 8), generator=generator)
    if channels == 1:
        perfect = (target[:, None] * 2 - 1) * 20.0
    else:
        perfect = nn.functional.one_hot(target, channels).movedim(-1, 1) * 40.0
    random = torch.randn(2, channels, 8, 8, generator=generator)
    loss = loss_of(kind)
    assert loss(perfect.float(), target) < 1e-3 < loss(random, target)


def test_an_unreadable_training_state_is_named(tmp_path: Path) -> None:
    assert load_state(tmp_path / "none.pt") is None
    path = tmp_path / "state.pt"
    save_state({"a": torch.arange(3)}, path)
    loaded = load_state(path)
    assert loaded is not None
    assert loaded["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(Exception, match=r"state\.pt: not a training state"):
        load_state(path)


def test_divergence_names_its_iteration() -> None:
    assert "iteration 7" in str(Diverged(7))
