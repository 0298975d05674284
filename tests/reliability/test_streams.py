"""Every random stream is used once: unique by model, recipe, task, seed, purpose, epoch and place, not by worker."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy import planned

from embench.core.paths import prepared_path
from embench.core.seeding import entropy
from embench.data.store import Prepared
from embench.models.registry import chosen_models
from embench.pretraining.registry import find_pretraining
from embench.pretraining.samples import _ORDER, _VIEWS, EXAMPLES, START, STEP, rng, stream_of
from embench.training.augment import TrainingAugmentation
from embench.training.sampler import TrainingSections


def first_draws(*of: list[int]) -> set[tuple[int, ...]]:
    return {tuple(np.random.default_rng(each).integers(2**63, size=4).tolist()) for each in of}


def test_trials_differ_in_model_recipe_task_or_seed_and_so_do_their_streams(toy_data: Path, tmp_path: Path) -> None:
    models = chosen_models(["published"])[1]
    some = [planned(toy_data, tmp_path, model, first_seed=seed) for model in models for seed in range(3)]
    trials = [*some, *(replace(trial, task="another") for trial in some)]
    trials += [replace(trial, recipe=replace(trial.recipe, name="another")) for trial in some]
    assert len(first_draws(*(trial.entropy for trial in trials))) == len(trials)


def test_streams_of_one_trial_differ_in_purpose_epoch_and_place() -> None:
    of_trial = entropy("model/recipe/task", 0)
    purposes = [[*of_trial, 0, epoch] for epoch in range(20)]
    purposes += [[*of_trial, 1, epoch, place] for epoch, place in product(range(20), range(20))]
    assert len(first_draws(of_trial, *purposes)) == 1 + 20 + 400


def test_every_sample_of_a_trial_is_drawn_with_a_stream_of_its_own(toy_data: Path) -> None:
    drawn: list[int] = []

    def augment(image: Any, labels: Any, generator: np.random.Generator) -> Any:
        drawn.append(int(generator.integers(2**63)))
        return TrainingAugmentation(32)(image, labels, generator)

    with Prepared(prepared_path("toy", toy_data)) as prepared:
        sections = TrainingSections(prepared)
        batches = [sections.batch(number, 4, entropy("a", 0), augment)[0] for number in range(6)]  # four epochs
        assert len(set(drawn)) == len(drawn) == 24
        again = [sections.batch(number, 4, entropy("a", 0), augment)[0] for number in reversed(range(6))]
        assert all(np.array_equal(a, b) for a, b in zip(batches, reversed(again), strict=True))  # whatever came before


def test_pretrainings_differ_in_method_model_data_or_seed_and_so_do_their_streams() -> None:
    from baselines.unet_resnet50 import UNetResNet50

    methods = [find_pretraining(name)() for name in ("retina", "mocov2")]
    methods.append(find_pretraining("retina")(UNetResNet50()))
    streams = [stream_of(method, data, seed) for method, data, seed in product(methods, ("a", "b"), range(3))]
    assert len(first_draws(*streams)) == len(streams) == 18
    places = [(_ORDER, 0), (_ORDER, 1), (START,), (EXAMPLES,)]
    places += [(_VIEWS, epoch, position) for epoch, position in product(range(5), range(5))]
    places += [(STEP, iteration, rank) for iteration, rank in product(range(5), range(3))]
    generators = [rng(streams[0], *place) for place in places]
    assert len({int(generator.integers(2**63)) for generator in generators}) == len(places)


@pytest.mark.parametrize("seed", [0, 2**31, 2**40])
def test_any_seed_gives_streams_of_its_own(seed: int) -> None:
    assert len(first_draws(entropy("a", seed), entropy("a", seed + 1), entropy("b", seed))) == 3
