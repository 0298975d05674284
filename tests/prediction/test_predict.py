"""Kept weights predict what the trial scored; an image on disk becomes a file that means what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from numpy.typing import NDArray
from PIL import Image

from embench import TrialResult
from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data import store
from embench.data.store import Prepared
from embench.data.task import Item, Scoring
from embench.models import trained
from embench.prediction import batch
from embench.prediction.predict import Options, predict_array
from embench.runs import keep, trial
from embench.scoring.predictions import section_place

SIZE = (50.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy task, and the same images as volumes predicted along one axis and along three."""
    folder = toy.make(tmp_path_factory.mktemp("data"))
    for planes in ("stack", "orthoplane"):
        task = replace(toy.TOY, name=f"toy-{planes}", scoring=Scoring(planes), voxel_size=SIZE)  # type: ignore[arg-type]
        items = [
            Item(split, split, *(each[:, :48, :64] for each in toy.discs(seed, 6)))  # type: ignore[arg-type]
            for split, seed in (("train", 1), ("test", 2))
        ]
        store.write(prepared_path(task.name, folder), task, items)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Train a model on a task once, and return the result and its path."""
    folder = tmp_path_factory.mktemp("results")
    done: dict[tuple[str, str, int], tuple[TrialResult, Path]] = {}

    def run(model: str = "unet-resnet50", task: str = "toy", seed: int = 0) -> tuple[TrialResult, Path]:
        key = model, task, seed
        if key not in done:
            spec = toy.planned(data, folder, model, tasks=[task], first_seed=seed, evaluations=1)
            result = trial.run(spec)
            assert result is not None
            done[key] = result, spec.path
        return done[key]

    return run


def stored_sections(result: TrialResult, path: Path) -> dict[tuple[str, int], NDArray[np.uint8]]:
    return {section_place(name, path): np.asarray(Image.open(path.parent / name)) for name in result.sections}


def scored_image(data: Path, task: str) -> NDArray[np.uint8]:
    with Prepared(prepared_path(task, data)) as prepared:
        (volume,) = prepared.volumes("test")
        return np.asarray(volume.image)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        ("unet-resnet50", "toy"),
        ("transunet", "toy"),
        ("unet-resnet50", "toy-orthoplane"),
        pytest.param("transunet", "toy-orthoplane", marks=pytest.mark.slow),
        pytest.param("transunet", "toy-stack", marks=pytest.mark.slow),
        pytest.param("unet-3d", "toy-orthoplane", marks=pytest.mark.slow),
    ],
)
def test_kept_weights_predict_the_bytes_that_the_trial_scored(run, data: Path, model: str, task: str) -> None:  # type: ignore[no-untyped-def]
    result, path = run(model, task)
    network = batch.find_network(path, data)
    assert network.card.hash == result.trained
    found = predict_array([network], scored_image(data, task), Options(probabilities=True))
    labels = found["labels"]
    kept = stored_sections(result, path)
    assert kept
    for (_, z), section in kept.items():
        np.testing.assert_array_equal(labels[z], section)
    assert result.final is not None
    assert result.final.diagnostics is not None
    assert found["probabilities"].max() == result.final.diagnostics.largest_score[1] > 0


def test_a_trial_keeps_a_card_with_all_that_is_needed(run, data: Path) -> None:  # type: ignore[no-untyped-def]
    result, path = run()
    card = batch.find_network(path, data).card
    assert card.score == result.score
    assert card.the_task == toy.TOY
    assert card.recipe == result.recipe
    assert json.loads(path.read_text())["trained"] == card.hash
    assert [each.card.hash for each in trained.every(data) if each.card.task["name"] == "toy"].count(card.hash) == 1


def test_nothing_is_kept_where_it_was_not_wanted(data: Path, tmp_path: Path) -> None:
    spec = toy.planned(data, tmp_path, seeds=1, first_seed=7, keep_weights=False, evaluations=1)
    result = trial.run(spec)
    assert result is not None
    assert result.trained is None
    assert json.loads(spec.path.read_text())["trained"] is None
    with pytest.raises(BadInput, match="kept no weights"):
        batch.find_network(spec.path, data)


def test_room_is_checked_before_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = toy.planned(data, tmp_path)
    needed = keep.check_room([spec, replace(spec, seed=1)])
    assert needed == 2 * keep.weights_bytes("unet-resnet50", 1, "tiny") > 10**6
    monkeypatch.setattr(keep.shutil, "disk_usage", lambda _: type("Usage", (), {"free": needed - 1}))
    with pytest.raises(BadInput, match="--no-keep-weights"):
        keep.check_room([spec, replace(spec, seed=1)])
    assert keep.check_room([replace(spec, keep_weights=False)]) == 0


def save(image: NDArray[np.uint8], path: Path) -> Path:
    import tifffile

    tifffile.imwrite(path, image, photometric="minisblack")
    return path


@pytest.mark.parametrize("name", ["out.ome.tif", "out.nii.gz", "out.zarr", "out"])
def test_a_volume_becomes_the_file_asked_for(run, data: Path, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    from embench.data.readers.open import open_volume

    _, result = run("unet-resnet50", "toy-orthoplane")
    volume = toy.discs(5, 12)[0][:, 10:34, 10:42]
    image = save(volume, tmp_path / "image.tif")
    options = Options(voxel_size=SIZE, instances="components", doubt="entropy")
    ((out, card),) = batch.predict([result], image, tmp_path / name, options, data=data)
    expected = predict_array([batch.find_network(result, data)], volume, options)
    if name == "out":
        found = np.stack([np.asarray(Image.open(out / f"{z:02d}.png")) for z in range(12)])
    else:
        found = np.stack(list(open_volume(out)))
        assert f"out-doubt{name[3:]}" in {each.name for each in tmp_path.iterdir()}
    np.testing.assert_array_equal(found, expected["labels"])
    assert card["objects"] == expected["instances"].max()
    lines = (tmp_path / "out-instances.csv").read_text().splitlines()
    assert len(lines) == 1 + card["objects"]
    assert "volume_nm3" in lines[0]
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
    assert batch.read_card(out)["networks"][0]["weights"] == batch.find_network(result, data).card.hash


def test_the_same_command_again_is_done_and_another_is_refused(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, result = run()
    image = save(toy.discs(5, 2)[0], tmp_path / "image.tif")
    ((_, first),) = batch.predict([result], image, tmp_path / "out.tif", Options(), data=data)
    before = (tmp_path / "out.tif").stat().st_mtime_ns
    ((_, again),) = batch.predict([result], image, tmp_path / "out.tif", Options(), data=data)
    assert again == first
    with pytest.raises(BadInput, match=r"out\.tif: exists; .*--overwrite"):
        batch.predict([result], image, tmp_path / "out.tif", Options(flips=True), data=data)
    assert (tmp_path / "out.tif").stat().st_mtime_ns == before
    batch.predict([result], image, tmp_path / "out.tif", Options(flips=True), data=data, overwrite=True)
    assert batch.read_card(tmp_path / "out.tif")["options"]["flips"]


def test_two_seeds_are_averaged_and_their_spread_is_shown(run, data: Path) -> None:  # type: ignore[no-untyped-def]
    networks = [batch.find_network(run(seed=seed)[1], data) for seed in (0, 1)]
    image = toy.discs(5, 2)[0]
    each = [predict_array([network], image, Options(probabilities=True))["probabilities"] for network in networks]
    both = predict_array(networks, image, Options(probabilities=True, doubt="spread"))
    np.testing.assert_allclose(both["probabilities"], (each[0] + each[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(both["doubt"], abs(each[0] - each[1])[0], atol=1e-6)


def test_another_voxel_size_needs_a_word(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, result = run("unet-resnet50", "toy-stack")
    image = save(np.repeat(np.repeat(toy.discs(5, 8)[0], 2, 1), 2, 2), tmp_path / "image.tif")
    fine = Options(voxel_size=(50, 2.5, 2.5))
    with pytest.raises(BadInput, match=r"voxels of 50 x 2\.5 x 2\.5 nm .* 50 x 5 x 5 nm; .*--resample.*--as-is"):
        batch.predict([result], image, tmp_path / "out.tif", fine, data=data)
    assert [each.name for each in tmp_path.iterdir()] == ["image.tif"]
    batch.predict([result], image, tmp_path / "as-is.tif", replace(fine, as_is=True), data=data)
    ((out, card),) = batch.predict([result], image, tmp_path / "out.zarr", replace(fine, resample=True), data=data)
    import zarr

    found = zarr.open_group(str(out), mode="r")["0"][:]
    expected = predict_array([batch.find_network(result, data)], toy.discs(5, 8)[0])["labels"]
    np.testing.assert_array_equal(found, np.repeat(np.repeat(expected, 2, 1), 2, 2))
    assert card["resampled"]


def test_of_several_scales_the_nearest_is_taken(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from embench.data.writers import ome_zarr
    from embench.data.writers.base import Layer

    _, result = run("unet-resnet50", "toy-stack")
    image = np.repeat(np.repeat(toy.discs(5, 8)[0], 8, 1), 8, 2)
    layer = Layer("labels", image.shape, ("a", "b"), (50, 2.5, 2.5))
    ome_zarr.create(tmp_path / "image.zarr", layer, (4, 128, 128))
    import zarr

    zarr.open_group(str(tmp_path / "image.zarr"), mode="r+")["0"][:] = image
    ome_zarr.add_pyramid(tmp_path / "image.zarr", layer)
    ((_, card),) = batch.predict([result], tmp_path / "image.zarr", tmp_path / "out.zarr", Options(), data=data)
    assert card["shape"] == [8, 384, 384]
    assert card["voxel_size_nm"] == [50, 5, 5]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: Image.new("RGB", (64, 64), (1, 2, 3)).save(path / "a.png") or path / "a.png", "channels"),
        (lambda path: save(np.full((64, 64), 1000, np.uint16), path / "a.tif"), "8-bit"),
        (lambda path: path / "nothing.tif", "no such file"),
        (lambda path: (path / "empty").mkdir() or path / "empty", "no pictures"),
        (
            lambda path: [save(np.zeros((side, 64), np.uint8), path / f"{side}.tif") for side in (64, 96)] and path,
            "2 sizes .*--each",
        ),
    ],
    ids=["colours", "16-bit", "absent", "empty", "sizes"],
)
def test_what_cannot_be_predicted_is_one_line_and_writes_nothing(
    run, data: Path, tmp_path: Path, make, said: str
) -> None:  # type: ignore[no-untyped-def]
    _, result = run()
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir(), outputs.mkdir()
    with pytest.raises(BadInput, match=said) as caught:
        batch.predict([result], make(inputs), outputs / "out.tif", Options(), data=data)
    assert len(caught.value.lines) == 1
    assert not list(outputs.iterdir())


def test_nan_is_named_and_leaves_nothing(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, result = run()
    values = np.random.default_rng(0).random((3, 64, 64)).astype(np.float32)
    values[1, 2, 3] = np.nan
    image = save(values, tmp_path / "image.tif")
    with pytest.raises(BadInput, match="section 1: 1 voxels are NaN"):
        batch.predict([result], image, tmp_path / "out.zarr", Options(grey_range=(0, 1)), data=data)
    assert [each.name for each in tmp_path.iterdir()] == ["image.tif"]


def test_a_folder_of_pictures_of_any_size_is_predicted_one_by_one(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, result = run()
    folder = tmp_path / "in"
    folder.mkdir()
    for side in (64, 96):
        Image.fromarray(toy.discs(3, 1)[0][0, :side]).save(folder / f"{side}.png")
    found = batch.predict([result], folder, tmp_path / "out", Options(), each=True, data=data)
    assert {path.name: tuple(card["shape"]) for path, card in found} == {"64.png": (1, 64, 96), "96.png": (1, 96, 96)}
    assert np.asarray(Image.open(tmp_path / "out/64.png")).shape == (64, 96)


def test_networks_of_other_classes_are_refused(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    first, second = (batch.find_network(run(seed=seed)[1], data) for seed in (0, 1))
    other = second.card.model_copy(update={"task": {**second.card.task, "classes": ("background", "square")}})
    with pytest.raises(BadInput, match="only networks of the same can be averaged"):
        predict_array([first, trained.Trained(other, second.path)], toy.discs(5, 2)[0])


def test_weights_that_are_not_those_of_their_card_are_refused(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network = batch.find_network(run()[1], data)
    copy = tmp_path / network.path.name
    content = bytearray(network.path.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    copy.with_suffix(".json").write_bytes(network.path.with_suffix(".json").read_bytes())
    with pytest.raises(BadInput, match=r"its hash is .* its card says"):
        predict_array([batch.find_network(copy)], toy.discs(5, 2)[0])


def test_two_commands_share_one_prediction(run, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import multiprocessing

    _, result = run("unet-resnet50", "toy-orthoplane")
    volume = toy.discs(5, 12)[0][:, 10:34, 10:42]
    image = save(volume, tmp_path / "image.tif")
    context = multiprocessing.get_context("spawn")
    arguments = ([result], image, tmp_path / "out.tif", Options(voxel_size=SIZE))
    several = [context.Process(target=batch.predict, args=arguments, kwargs={"data": data}) for _ in range(2)]
    for each in several:
        each.start()
    for each in several:
        each.join()
        assert each.exitcode == 0
    import tifffile

    expected = predict_array([batch.find_network(result, data)], volume, Options(voxel_size=SIZE))["labels"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), expected)
    assert {each.name for each in tmp_path.iterdir()} == {"image.tif", "out.tif", "out.tif.json"}
