"""Duplicates are found across splits and pre-training sets; registered tasks never mix training and test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import published_files
import pytest
from PIL import Image

from embench.data import catalog, duplicates, patches, store
from embench.data.duplicates import report
from embench.data.patches import between, fingerprint, interleaved, padded, prints_of
from embench.data.store import Prepared, Volume
from embench.data.task import Item, Scoring, Split, Task, UnlabelledSet

TASK = Task("t", "T", "t", ("background", "a"), Scoring("2d"), 10)
CEM = UnlabelledSet("cem500k", "C", "cem500k")


def texture(seed: int, shape: tuple[int, int] = (224, 224)) -> np.ndarray:
    """A picture with structure at every scale, like a tissue's."""
    rng = np.random.default_rng(seed)
    total = np.zeros(shape)
    for size in (4, 8, 16, 64):
        total += cv2.resize(rng.standard_normal((size, size)), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (128 + 25 * total).clip(0, 255).astype(np.uint8)


def prepare(path: Path, sections: dict[Split, list[np.ndarray]], spec: Task | UnlabelledSet = TASK) -> Path:
    items = [
        Item(split, f"{split}{n}", image[None], np.zeros((1, *image.shape), np.uint8) if spec is TASK else None)
        for split, images in sections.items()
        for n, image in enumerate(images)
    ]
    store.write(path, spec, items)
    return path


def test_hash_is_that_of_the_published_de_duplication() -> None:
    for seed in range(5):
        patch = texture(seed)
        small = np.asarray(Image.fromarray(patch.astype(np.float32)).resize((9, 8), Image.Resampling.LANCZOS))
        expected = np.packbits(small[:, 1:] > small[:, :-1]).view("<u8")[0]
        assert np.bitwise_count(fingerprint(patch)["dhash"] ^ expected) <= 1  # a tie may fall to either side


def degraded(change: str, patch: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    match change:
        case "brighter, of more contrast":
            return (patch * 1.2 + 10).clip(0, 255).astype(np.uint8)
        case "noisy":
            return (patch + rng.normal(0, 10, patch.shape)).clip(0, 255).astype(np.uint8)
        case "compressed":
            return cv2.imdecode(cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0)
        case "at half resolution":
            return cv2.resize(cv2.resize(patch, (112, 112), interpolation=cv2.INTER_AREA), (224, 224))
    raise ValueError(change)


@pytest.mark.parametrize("change", ["brighter, of more contrast", "noisy", "compressed", "at half resolution"])
def test_a_changed_copy_is_near_and_not_exact(change: str) -> None:
    ours = np.array([fingerprint(texture(1))])
    theirs = np.array([fingerprint(texture(2)), fingerprint(degraded(change, texture(1)))])
    found = between(ours, theirs, ["here"])
    assert (found["exact"], found["near"], found["hash"], found["examples"]) == (0, 1, 1, ["here"])


def test_unrelated_pictures_whose_hashes_agree_by_chance_are_no_duplicates() -> None:
    ours, theirs = (np.array([fingerprint(texture(seed)) for seed in seeds]) for seeds in (range(40), range(40, 80)))
    theirs["dhash"] = ours["dhash"]
    found = between(ours, theirs)
    assert (found["patches"], found["hash"], found["near"]) == (40, 40, 0)


def test_flat_patches_are_left_out_and_counted() -> None:
    flat = [np.full((224, 224), value, np.uint8) for value in (0, 0, 128)]
    found = between(np.array([fingerprint(each) for each in [*flat, texture(1)]]), np.array([fingerprint(flat[0])]))
    assert (found["patches"], found["flat"], found["near"], found["hash"]) == (1, 3, 0, 0)


def test_the_card_of_a_task_counts_test_images_that_are_in_training(tmp_path: Path) -> None:
    large = texture(9, (448, 448))
    path = prepare(tmp_path / "t.h5", {"train": [texture(1), texture(2)], "test": [texture(2), texture(3), large]})
    with Prepared(path) as prepared:
        card = prepared.card["leakage"]
    assert (card["patches"], card["exact"], card["near"]) == (6, 1, 1)
    assert card["examples"] == ["test0 z0 y0 x0"]
    assert card["interleaved"] == []


def test_the_card_of_a_task_names_test_sections_from_between_training_sections(tmp_path: Path) -> None:
    volume = np.stack([texture(seed, (48, 48)) for seed in range(12)])
    blocks: list[tuple[Split, int]] = [("train", 0), ("test", 4), ("train", 8)]
    items = [
        Item(split, f"v-{z}-{z + 3}", volume[z : z + 4], np.zeros((4, 48, 48), np.uint8), origin="v.tif")
        for split, z in blocks
    ]
    store.write(tmp_path / "t.h5", TASK, items)
    with Prepared(tmp_path / "t.h5") as prepared:
        (fault,) = prepared.card["leakage"]["interleaved"]
    assert fault == "v.tif: test item v-4-7 (4..7) lies within train (0..11)"


def test_a_benchmark_image_inside_a_pretraining_set_is_found_patch_by_patch(tmp_path: Path) -> None:
    test = texture(1, (448, 500))  # 500 = 2 x 224 + 52: the remainder is no patch
    train = texture(2, (224, 340))  # 340 = 224 + 116: the remainder is one, padded
    path = prepare(tmp_path / "t.h5", {"train": [train], "test": [test]})
    copies = [test[:224, 224:448], padded(train[:, 224:]), degraded("noisy", test[224:, :224]), texture(3)]
    cem = prepare(tmp_path / "cem500k.h5", {"train": copies}, CEM)
    with Prepared(path) as prepared, Prepared(cem) as pretraining:
        found = report(prepared, pretraining)
        again = report(prepared, pretraining)
        hash_ = pretraining.hash
        assert duplicates.prints_path(cem).exists()
        told = duplicates.of_trial(prepared, "cem500k", hash_, tmp_path)
        other = duplicates.of_trial(prepared, "cem500k", "0" * 64, tmp_path)
        alone = duplicates.of_trial(prepared)
    assert {name: (each["patches"], each["exact"], each["near"]) for name, each in found.items()} == {
        "test in train": (4, 0, 0),
        "test in pretraining": (4, 1, 2),
        "train in pretraining": (2, 1, 1),
    }
    assert again == found
    assert told["checked"]
    assert told["test in pretraining"]["near"] == 2
    assert "about 5 %" in told["note"]
    assert not other["checked"]
    assert "about 5 %" in other["note"]
    assert "test in pretraining" not in other
    assert set(alone) == {"test in train"}


def test_prints_of_another_version_of_a_set_are_made_anew(tmp_path: Path) -> None:
    cem = prepare(tmp_path / "cem500k.h5", {"train": [texture(1)]}, CEM)
    duplicates.save_prints(cem, "0" * 64, np.zeros(7, patches.PRINT))
    with Prepared(cem) as pretraining:
        assert len(duplicates.pretraining_prints(pretraining)) == 1
    duplicates.prints_path(cem).write_bytes(b"PK\x03\x04 broken")
    with Prepared(cem) as pretraining:
        assert len(duplicates.pretraining_prints(pretraining)) == 1


def test_every_patch_of_a_volume_is_hashed_once() -> None:
    volume = np.stack([texture(seed, (230, 460)) for seed in range(3)])
    prints, places = prints_of([Volume("v", volume, None)])  # type: ignore[arg-type]
    assert places == [f"v z{z} y0 x{x}" for z in range(3) for x in (0, 224)]
    assert prints["sha256"][1].tobytes() == fingerprint(volume[0, :224, 224:448])["sha256"].tobytes()


def block(split: Split, name: str, origin: str, depth: int = 4) -> patches.Place:
    return split, name, origin, depth


@pytest.mark.parametrize(
    ("items", "mixed"),
    [
        ([block("train", "a", "a.h5"), block("test", "b", "b.h5")], False),
        ([block("train", "a", "a.h5"), block("test", "b", "a.h5")], True),
        ([block("train", "a-0-3", "a.h5"), block("test", "a-4-7", "a.h5")], False),
        ([block("train", "a-0-3", "a.h5"), block("test", "a-2-5", "a.h5")], True),
        ([block("train", n, "a.h5") for n in ("a-0-3", "a-8-11")] + [block("test", "a-4-7", "a.h5")], True),
        ([block("train", "a-0-3", "a.h5"), block("valid", "a-4-7", "a.h5"), block("test", "a-8-11", "a.h5")], False),
        # a name that only looks like a block
        ([block("train", "fib1-0-0-0", "a.h5"), block("test", "fib1-1-0-3", "a.h5")], True),
    ],
)
def test_training_and_test_sections_of_one_volume_must_not_interleave(items: list[patches.Place], mixed: bool) -> None:
    assert bool(interleaved(items)) == mixed


def vnc(folder: Path, rng: np.random.Generator) -> None:
    for stack in ("stack1", "stack2"):
        for kind in ("raw", "mitochondria", "synapses"):
            (folder / stack / kind).mkdir(parents=True)
            for z in range(20):
                section = rng.integers(0, 256, (32, 32), np.uint8)
                if kind == "raw":
                    Image.fromarray(section).save(folder / stack / kind / f"{z:02d}.tif")
                else:
                    Image.fromarray(section // 128 * 255).save(folder / stack / kind / f"{z:02d}.png")


def all_mito(folder: Path, rng: np.random.Generator) -> None:
    published_files.perez(folder / "supplemental_data", rng)
    published_files.plusplus(folder / "Lucchi++", rng, "mask{:04d}.png")
    published_files.plusplus(folder / "Kasthuri++", rng, "mask{:04d}.png")
    published_files.urocell(folder / "UroCell", rng, old=False)
    published_files.guay(folder / "platelet_data", rng)


PUBLISHED: dict[str, Callable[[Path, np.random.Generator], object]] = {
    "vnc": vnc,
    "cremi": published_files.cremi,
    "guay": published_files.guay,
    "kasthuri": lambda folder, rng: published_files.plusplus(folder / "Kasthuri++", rng, "mask{:04d}.png"),
    "lucchi": lambda folder, rng: published_files.plusplus(folder / "Lucchi++", rng, "mask{:04d}.png"),
    "perez": lambda folder, rng: published_files.perez(folder / "supplemental_data", rng),
    "urocell": lambda folder, rng: published_files.urocell(folder, rng, old=False),
    "all-mito": all_mito,
}


# Generated tasks have no volumes in common by construction: every item is drawn on its own (test_mini.py).
@pytest.mark.parametrize(
    "task", [task for task in catalog.all_tasks() if not task.synthetic], ids=lambda task: task.name
)
def test_every_registered_task_trains_and_tests_on_other_volumes_or_blocks(task: Task, tmp_path: Path) -> None:
    dataset = catalog.find_dataset(task.dataset)
    PUBLISHED[dataset.name](tmp_path, np.random.default_rng(0))
    items = list(dataset.read(tmp_path, task.name))
    assert {item.split for item in items} >= {"train", "test"}
    assert all(item.origin for item in items)
    assert not interleaved((item.split, item.name, item.origin, item.image.shape[0]) for item in items)
    train, test = (hashes(item for item in items if item.split == split) for split in ("train", "test"))
    assert not train & test


def hashes(items: Iterable[Item]) -> set[bytes]:
    return {np.asarray(item.image[z]).tobytes() for item in items for z in range(item.image.shape[0])}
