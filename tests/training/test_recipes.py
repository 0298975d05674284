"""Recipes of one's own: what can be said, how it is written down, what is refused, and that it trains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from embench.core.errors import BadInput
from embench.data.task import Scoring, Task
from embench.models.registry import find_model
from embench.runs import plan, trial
from embench.runs.options import RunRequest
from embench.runs.request import trials
from embench.scoring.schema import Fingerprint
from embench.training.augmentations import augmentation_of
from embench.training.losses import loss_of
from embench.training.optim import optimiser, optimiser_names
from embench.training.recipe import RECIPES, Recipe, SlidingWindow, WholeImage, find_recipe, with_changes
from embench.training.registries import AUGMENTATIONS, LOSSES, SAMPLERS, SCHEDULES, Own

ROOT = Path(__file__).parents[2]
TASK = Task("spots", "", "", ("background", "spot", "ring"), Scoring("2d", (1, 2)), 10)

OWN = """
import albumentations as A
from torch import nn
from embench import Recipe, TorchModel

def my_loss(logits, target):
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target.float())

class Own(TorchModel):
    recipe = Recipe(name="own", loss=my_loss, optimiser="AdamW", learning_rate=1e-3, schedule="cosine", crop=64,
                    batch_size=4, augmentation=A.Compose([A.HorizontalFlip(p=0.5), A.RandomRotate90(p=0.5)]))
    def network(self, outputs):
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, outputs, 1))
"""


def squared(logits: Tensor, target: Tensor) -> Tensor:
    return (logits[:, 0] - target).square().mean()


def section(seed: int = 0, side: int = 150) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (side, side + 20), np.uint8)
    return image, (image > 200).astype(np.uint8) * 2


# How it is written down


def test_every_stored_result_keeps_the_recipe_and_the_file_name_that_it_has() -> None:
    seen = 0
    for path in sorted((ROOT / "results").rglob("seed-*.json")):
        stored = json.loads(path.read_text())
        if stored["status"] == "submitted":
            continue
        facts = dict(stored["recipe"])
        inference = facts["inference"]
        facts["inference"] = WholeImage(**inference) if "multiple" in inference else SlidingWindow(**inference)
        recipe = Recipe(**facts)
        assert list(recipe.facts()) == list(stored["recipe"])
        assert json.dumps(recipe.facts()) == json.dumps(stored["recipe"])
        weights = stored["model"]["weights_hash"]
        stamp = Fingerprint.model_validate(stored["fingerprint"])
        key = plan.TrialKey(stored["model"]["name"], stored["task"], recipe, stamp, weights, stored["seed"])
        assert key.path(ROOT / "results") == path
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_recipe_is_written_without_the_fields_that_came_later(name: str) -> None:
    recipe = find_recipe(name)
    old = "name loss optimiser learning_rate weight_decay schedule inference momentum crop batch_size scale precision"
    assert list(recipe.facts()) == old.split()
    assert "ema" in replace(recipe, ema=0.9).facts()


def test_what_a_recipe_is_stands_whole_in_its_facts() -> None:
    recipe = Recipe("own", loss=squared, augmentation=A.Compose([A.Affine(rotate=20, p=0.3)]), ema=0.9, warm_up=5)
    facts = json.loads(json.dumps(recipe.facts()))
    assert facts["loss"]["name"] == "squared"
    assert len(facts["loss"]["source"]) == 12
    (affine,) = facts["augmentation"]["settings"]["transforms"]
    assert (affine["__class_fullname__"], affine["p"], affine["rotate"]) == ("Affine", 0.3, [20.0, 20.0])
    assert (facts["ema"], facts["warm_up"]) == (0.9, 5)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": nn.SmoothL1Loss(beta=0.5)},
        {"augmentation": A.Compose([A.HorizontalFlip(p=0.4)])},
        {"optimiser_options": {"eps": 1e-6}},
        {"sampler": "foreground"},
        {"clip_gradient": 1.0},
    ],
    ids=str,
)
def test_whatever_is_changed_changes_the_facts(changes: dict[str, Any]) -> None:
    base: dict[str, Any] = {"loss": nn.SmoothL1Loss(beta=1.0), "augmentation": A.Compose([A.HorizontalFlip(p=0.5)])}
    assert Recipe("own", **base).facts() != Recipe("own", **base | changes).facts()
    assert Recipe("own", **base).facts() == Recipe("own", **base).facts()


def test_a_plain_recipe_travels_as_json_and_gets_its_callables_back() -> None:
    recipe = Recipe("own", loss=squared, augmentation=A.Compose([A.HorizontalFlip(p=0.5)])).for_task(TASK)
    kind = TypeAdapter(Recipe)
    plain = kind.validate_json(kind.dump_json(recipe.plain()))
    assert plain == recipe.plain()
    assert plain.facts() == recipe.facts()
    assert plain.revived(recipe).loss is squared
    with pytest.raises(BadInput, match="recipe own: loss changed since the run was planned"):
        plain.revived(replace(recipe, loss=lambda logits, target: logits.mean()))


# What is refused


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"learning_rat": 1}, "unknown recipe field 'learning_rat': did you mean learning_rate"),
        ({"learning_rate": -1}, "recipe x: learning_rate -1: must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan: must be a number"),
        ({"crop": 2.5}, "crop 2.5: must be a whole number"),
        ({"loss": "focall"}, "loss: unknown loss 'focall': did you mean focal"),
        ({"loss": 3}, "loss 3: give a name or a callable"),
        ({"schedule": "cosin"}, "schedule: unknown schedule 'cosin': did you mean cosine"),
        ({"precision": "fp16"}, "precision 'fp16': use fp32 or bf16"),
        ({"ema": 1}, "ema 1: must be at least 0 and below 1"),
        ({"schedule": "onecycle", "warm_up": 3}, "warm_up 3: onecycle has a warm-up of its own"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_named_with_the_reason(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as raised:
        Recipe("x", **fields)
    assert told in str(raised.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(BadInput) as raised:
        Recipe("x", learning_rate=0, crop=0, loss="nothing")
    assert len(raised.value.lines) == 3


@pytest.mark.parametrize(
    ("transform", "told"),
    [
        (A.Resize(32, 32), "Resize changes the size of the image to (32, 32)"),
        (A.Normalize(), "Normalize returns the image as float32"),
        (A.Rotate(mask_interpolation=1), "Rotate changes the labels' values to 1"),
        (A.RandomCrop(32, 32), "RandomCrop changes the size of the image to (32, 32)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_transform_that_may_not_be_is_named(transform: Any, told: str) -> None:
    augment = augmentation_of(Recipe("x", crop=64, augmentation=A.Compose([A.HorizontalFlip(), transform])), TASK)
    with pytest.raises(BadInput) as raised:
        [augment(*section(), np.random.default_rng(seed)) for seed in range(30)]
    assert told in str(raised.value)


def test_a_recipe_may_not_pretend_to_be_a_published_one(tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("from embench import Recipe\nR = Recipe('unet', learning_rate=1.0)\nN = 3\n")
    with pytest.raises(BadInput, match=r"r\.py:R: recipe name 'unet' is that of a published recipe"):
        find_recipe(f"{tmp_path}/r.py:R")
    with pytest.raises(BadInput, match=r"r\.py:N: int, not a recipe"):
        find_recipe(f"{tmp_path}/r.py:N")
    with pytest.raises(BadInput, match=r"unknown name in .*r\.py 'S'"):
        find_recipe(f"{tmp_path}/r.py:S")


# Files and single fields

TOML = """
name = "gentle"
loss = "parts.py:mine"
optimiser = "AdamW"
crop = 64
[inference]
kind = "sliding-window"
overlap_2d = 0.25
[[augmentation]]
transform = "HorizontalFlip"
p = 0.5
"""


def test_a_toml_file_holds_a_whole_recipe(tmp_path: Path) -> None:
    (tmp_path / "parts.py").write_text("def mine(logits, target):\n    return logits.mean()\n")
    (tmp_path / "gentle.toml").write_text(TOML)
    recipe = find_recipe(str(tmp_path / "gentle.toml"))
    assert (recipe.name, recipe.crop, recipe.inference) == ("gentle", 64, SlidingWindow(overlap_2d=0.25))
    facts = recipe.facts()
    assert facts["loss"]["name"] == "mine"
    assert facts["augmentation"]["settings"]["transforms"][0]["p"] == 0.5


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ('loss = "parts.py:mine"', 'los = "dice"', "recipe field in .*toml 'los': did you mean loss"),
        ("HorizontalFlip", "HorizontalFlop", "augmentation 1: transform .* 'HorizontalFlop': did you mean Horizontal"),
        ("p = 0.5", "p = 5", "augmentation 1: HorizontalFlip: "),
        ("overlap_2d", "overlap2d", "field of inference in .*'overlap2d': did you mean overlap_2d"),
        ("sliding-window", "sliding", "inference 'sliding': did you mean sliding-window"),
        ("crop = 64", "crop = -1", r"toml: recipe gentle: crop -1: must be at least 1"),
        ("crop = 64", "crop = = 1", r"toml: not TOML"),
        ("parts.py", "nothing.py", r"nothing\.py: no such file"),
    ],
)
def test_a_fault_in_a_toml_file_is_named(tmp_path: Path, before: str, after: str, told: str) -> None:
    (tmp_path / "parts.py").write_text("def mine(logits, target):\n    return logits.mean()\n")
    (tmp_path / "r.toml").write_text(TOML.replace(before, after, 1))
    with pytest.raises(BadInput, match=told):
        find_recipe(str(tmp_path / "r.toml"))


def test_single_fields_are_changed_and_named_where_no_registered_recipe_tells_them() -> None:
    published = with_changes(find_recipe("unet"), ["learning_rate=0.01", "loss=focal", "clip_gradient=none"])
    assert (published.learning_rate, published.loss, published.changed) == (0.01, "focal", ())
    assert with_changes(find_recipe("unet-tiny"), ["crop=32"]).changed == ()
    assert with_changes(Recipe("own"), ["batch_size=4"]).changed == ("batch_size=4",)
    for change, told in (
        ("learning_rate", "give field=value"),
        ("speed=3", "unknown recipe field 'speed'"),
        ("crop=large", "'large' is no number"),
        ("inference=whole", "did you mean whole-image"),
        ("optimiser_options=3", "give JSON"),
    ):
        with pytest.raises(BadInput, match=told):
            with_changes(Recipe("own"), [change])


def test_the_recipes_of_the_page_are_recipes(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text()
    for kind in ("toml", "python"):
        (tmp_path / f"page.{kind[:4]}").write_text(page.partition(f"```{kind}\n")[2].partition("```")[0])
    (tmp_path / "page.pyth").rename(tmp_path / "page.py")
    assert find_recipe(str(tmp_path / "page.toml")).optimiser_options == {"betas": [0.9, 0.95]}
    own = find_model(f"{tmp_path}/page.py:Own")
    assert isinstance(own.recipe, Recipe)  # type: ignore[attr-defined]
    assert own.network(1)(torch.zeros(1, 1, 8, 8)).shape == (1, 1, 8, 8)  # type: ignore[attr-defined]


# What a recipe names


@pytest.mark.parametrize("name", sorted(set(optimiser_names()) - {"muon"}))
def test_any_optimiser_of_torch_takes_steps(name: str) -> None:
    layer = nn.Linear(4, 1)
    recipe = Recipe("x", optimiser=name, learning_rate=0.01, schedule="cosine", warm_up=2)
    made, schedule = optimiser(recipe, layer.parameters(), 6)
    before = layer.weight.detach().clone()
    rates = []
    for _ in range(6):
        layer(torch.ones(2, 4)).square().mean().backward()
        rates.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
        made.zero_grad()
    assert not torch.equal(before, layer.weight)
    assert rates[0] < rates[1] >= rates[2] > rates[-1] > 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"optimiser": "adamv"}, "unknown optimiser of recipe x 'adamv': did you mean adam"),
        ({"optimiser_options": {"betas": 3}}, "recipe x: optimiser adamw: "),
        ({"optimiser_options": {"speed": 3}}, "recipe x: optimiser adamw: "),
    ],
    ids=str,
)
def test_an_optimiser_that_cannot_be_made_is_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput) as raised:
        optimiser(Recipe("x", **fields), nn.Linear(2, 1).parameters(), 5)
    assert told in str(raised.value)


@pytest.mark.parametrize("name", [name for name in SCHEDULES.names() if name != "onecycle"])
def test_a_schedule_stays_between_nothing_and_the_full_rate(name: str) -> None:
    factors = [SCHEDULES.find(name)(step, 50) for step in range(50)]
    assert max(factors) <= 1
    assert min(factors) >= 0
    assert max(factors) > 0.9


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("channels", [1, 3])
def test_a_loss_takes_volumes_as_it_takes_images(name: str, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 1, 8, 8, generator=generator)
    target = torch.randint(0, max(2, channels), (2, 1, 8, 8), generator=generator)
    loss = loss_of(name)
    torch.testing.assert_close(loss(logits, target), loss(logits[:, :, 0], target[:, 0]))


def test_a_loss_that_returns_a_map_is_refused() -> None:
    loss = loss_of(nn.BCEWithLogitsLoss(reduction="none"))
    with pytest.raises(BadInput, match=r"loss: BCEWithLogitsLoss returns a tensor \(2, 1, 4, 4\)"):
        loss(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS.names() if name != "volume"])  # of patches in 3D
@pytest.mark.parametrize("side", [40, 150])
def test_an_augmentation_gives_the_crop_and_the_same_one_for_the_same_generator(name: str, side: int) -> None:
    augment = augmentation_of(Recipe("x", crop=64, augmentation=name), TASK)
    image, labels = section(side=side)
    first, again = (augment(image, labels, np.random.default_rng(3)) for _ in range(2))
    assert first[0].shape == first[1].shape == (64, 64)
    assert np.array_equal(first[0], again[0])
    assert set(np.unique(first[1])) <= {0, 2}


@pytest.mark.parametrize(
    "transform",
    [
        A.Compose([A.HorizontalFlip(p=0.5), A.RandomRotate90(p=0.5)]),
        A.Compose([A.RandomResizedCrop((64, 64)), A.OneOf([A.GaussNoise(), A.GaussianBlur()], p=0.9)]),
        A.VerticalFlip(),
    ],
    ids=["crop made first", "own crop", "one transform"],
)
def test_transforms_of_albumentations_draw_from_the_samples_own_generator(transform: Any) -> None:
    augment = augmentation_of(Recipe("x", crop=64, augmentation=transform), TASK)
    image, labels = section()
    found = [augment(image, labels, np.random.default_rng(seed)) for seed in range(12)]
    again = [augment(image, labels, np.random.default_rng(seed)) for seed in reversed(range(12))][::-1]
    assert all(np.array_equal(one[0], two[0]) for one, two in zip(found, again, strict=True))
    assert len({pair[0].tobytes() for pair in found}) == 12


def test_a_function_of_ones_own_is_an_augmentation() -> None:
    def mirrored(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return image[:, ::-1], labels[:, ::-1]

    def whole(image: np.ndarray, labels: np.ndarray, rng: Any, crop: int) -> tuple[np.ndarray, np.ndarray]:
        assert image.shape == (150, 170)
        return image[:crop, :crop], labels[:crop, :crop]

    for function in (mirrored, whole):
        augment = augmentation_of(Recipe("x", crop=64, augmentation=function), TASK)
        assert augment(*section(), np.random.default_rng(0))[0].shape == (64, 64)


# It trains


def planned(tmp_path: Path, toy_data: Path, **asked: Any) -> list[Any]:
    (tmp_path / "own.py").write_text(OWN)
    request = RunRequest(
        models=[f"{tmp_path}/own.py:Own"],
        tasks=["toy"],
        seeds=1,
        iterations=4,
        evaluations=2,
        results=tmp_path / "results",
        data=toy_data,
        device="cpu",
        **asked,
    )
    return trials(request)


def test_a_model_with_a_recipe_of_its_own_trains_as_it_stands(tmp_path: Path, toy_data: Path) -> None:
    (spec,) = planned(tmp_path, toy_data)
    assert isinstance(spec.recipe.loss, Own)
    again = plan.load(plan.write([spec]))[0]  # as another process gets it
    result = trial.run(again)
    assert result is not None
    assert (result.status, result.pairing, result.row) == ("done", "default", "own")
    assert result.recipe["loss"]["name"] == "my_loss"
    assert result.recipe["crop"] == 64
    assert result.recipe["inference"]["window"] == 64
    assert result.seconds_waiting is not None
    assert 0 < result.seconds_waiting < result.seconds_training


def test_a_change_of_one_field_is_another_row(tmp_path: Path, toy_data: Path) -> None:
    (own,), (changed,) = planned(tmp_path, toy_data), planned(tmp_path, toy_data, recipe_changes=["loss=dice"])
    assert own.path != changed.path
    assert changed.recipe.changed == ("loss=dice",)
    assert changed.track == "open"


def test_code_that_changed_since_the_plan_is_not_run(tmp_path: Path, toy_data: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(OWN + "R = Own.recipe\n")
    (spec,) = planned(tmp_path, toy_data, recipe=f"{recipe}:R")
    assert (spec.pairing, spec.recipe_from) == ("own", f"{recipe}:R")
    recipe.write_text(recipe.read_text().replace("target.float()", "1 - target.float()"))
    with pytest.raises(BadInput, match="loss changed since the run was planned"):
        trial.run(spec)


@pytest.mark.parametrize(
    "changes", [{"ema": 0.9}, {"clip_gradient": 0.1}, {"sampler": "foreground"}, {"warm_up": 2}], ids=str
)
def test_every_field_trains_and_resumes_to_the_same_bytes(
    tmp_path: Path, toy_data: Path, changes: dict[str, Any]
) -> None:
    name, value = next(iter(changes.items()))
    (spec,) = planned(tmp_path, toy_data, recipe_changes=[f"{name}={value}"])
    whole = trial.run(replace(spec, results_folder=tmp_path / "whole"))

    class Killed(Exception):
        pass

    def kill(what: str, iteration: int, loss: float) -> None:
        if iteration == 3:
            raise Killed

    with pytest.raises(Killed):
        trial.run(replace(spec, save_every=0.0), kill)
    resumed = trial.run(spec)
    assert whole is not None
    assert resumed is not None
    assert resumed.loss_curve == whole.loss_curve
    assert [snapshot.images for snapshot in resumed.snapshots] == [snapshot.images for snapshot in whole.snapshots]


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_a_sampler_chooses_sections_that_exist(name: str, toy_data: Path) -> None:
    from embench.data.store import Prepared
    from embench.training.sampler import TrainingSections, positions_of

    with Prepared(toy_data / "toy.h5") as data:
        sections = TrainingSections(data)
        assert set(positions_of(name, sections)) <= set(range(len(sections)))
        with pytest.raises(BadInput, match="sampler: <lambda> chooses no section"):
            positions_of(lambda sections: [], sections)
