"""Small valid files of everything that is read, made anew at each call from fixed numbers."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import nibabel
import nrrd
import numpy as np
import tifffile
import zarr
from PIL import Image

from . import mutate

SHAPE = (3, 20, 24)


def grey(dtype: str = "u1", most: int = 256) -> np.ndarray:
    return np.random.default_rng(7).integers(0, most, SHAPE).astype(dtype)


def written(name: str, write: Callable[[Path], object]) -> bytes:
    """Return the bytes that ``write`` puts into a file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def png() -> list[bytes]:
    found = []
    for mode, array in (
        ("L", grey()[0]),
        ("I;16", grey("u2", 60_000)[0]),
        ("RGB", np.repeat(grey()[0, ..., None], 3, -1)),
        ("RGBA", np.dstack([np.repeat(grey()[0, ..., None], 3, -1), np.full(SHAPE[1:], 255, "u1")])),
        ("1", grey()[0] > 128),
        ("P", grey("u1", 3)[0]),
    ):
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([0, 0, 0, 1, 1, 1, 2, 2, 2])
        image.save(buffer := io.BytesIO(), "png")
        found.append(buffer.getvalue())
    return found


def tif() -> list[bytes]:
    image = grey("u2", 60_000)
    ways: list[dict[str, object]] = [
        {"photometric": "minisblack"},
        {"photometric": "minisblack", "compression": "lzw", "byteorder": ">"},
        {"photometric": "minisblack", "compression": "deflate", "tile": (16, 16), "predictor": True},
        {"photometric": "minisblack", "compression": "zstd", "rowsperstrip": 5, "bigtiff": True},
        {"photometric": "minisblack", "compression": "packbits"},
        {"imagej": True},
        {"ome": True},
        {"volumetric": True, "tile": (16, 16, 16), "compression": "deflate", "photometric": "minisblack"},
    ]
    found = [written("a.tif", lambda path, way=way: tifffile.imwrite(path, image, **way)) for way in ways]  # type: ignore[misc]
    for codec in ("jpeg", "jpeg2000", "lerc", "webp"):
        shape = {"photometric": "rgb"} if codec == "webp" else {"photometric": "minisblack"}
        picture = np.repeat(grey()[0, ..., None], 3, -1) if codec == "webp" else grey()[0]
        found.append(written("a.tif", lambda path: tifffile.imwrite(path, picture, compression=codec, **shape)))  # noqa: B023
    return found


def nifti() -> list[bytes]:
    affine = np.diag([16.0, 16.0, 15.0, 1.0])
    scaled = nibabel.Nifti1Image(grey("i2", 3000).T, affine)
    scaled.header.set_slope_inter(2.0, 1.0)
    return [
        nibabel.Nifti1Image(grey("u1").T, affine).to_bytes(),
        nibabel.Nifti1Image(grey("f4", 3).T, affine).to_bytes(),
        nibabel.Nifti2Image(grey("u2").T, affine).to_bytes(),
        scaled.to_bytes(),
    ]


def nifti_gz() -> list[bytes]:
    import gzip

    return [gzip.compress(each, 1) for each in nifti()]


def nrrd_files() -> list[bytes]:
    header = {"space": "left-posterior-superior", "space units": ["nm"] * 3, "space directions": np.eye(3) * 8}
    return [
        written("a.nrrd", lambda path: nrrd.write(str(path), grey(dtype), {**header, "encoding": encoding}))  # noqa: B023
        for encoding in ("raw", "gzip", "bzip2", "ascii")
        for dtype in ("u1", "i2")
    ]


def hdf5() -> list[bytes]:
    def write(path: Path, libver: str, **options: object) -> None:
        with h5py.File(path, "w", libver=libver) as file:
            dataset = file.create_dataset("volumes/raw", data=grey(), **options)
            dataset.attrs["resolution"] = (40.0, 4.0, 4.0)

    chunks = (1, 16, 16)
    return [
        written("a.h5", lambda path: write(path, "earliest")),
        written("a.h5", lambda path: write(path, "earliest", chunks=chunks, compression="gzip", shuffle=True)),
        written("a.h5", lambda path: write(path, "latest", chunks=chunks, compression="lzf", fletcher32=True)),
    ]


def zarr_folders() -> list[bytes]:
    """Folders, each as a zip archive of its files."""

    def plain(path: Path, version: int) -> None:
        zarr.create_array(str(path), data=grey(), chunks=(1, 16, 16), zarr_format=version)

    def ome(path: Path) -> None:
        root = zarr.open_group(str(path), mode="w", zarr_format=2)
        root.create_array("0", data=grey(), chunks=(2, 20, 24))
        axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
        scale = [{"type": "scale", "scale": [15.0, 16.0, 16.0]}]
        root.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]

    def sharded(path: Path) -> None:
        zarr.create_array(str(path), data=grey(), chunks=(1, 10, 12), shards=(1, 20, 24), zarr_format=3)

    found = []
    for write in (lambda path: plain(path, 2), lambda path: plain(path, 3), ome, sharded):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder) / "a.zarr")
            root = Path(folder) / "a.zarr"
            files = sorted(path for path in root.rglob("*") if path.is_file())
            found.append(mutate.zipped([(str(path.relative_to(root)), path.read_bytes()) for path in files]))
    return found


def archives() -> list[bytes]:
    import zipfile

    members = [("top/", b""), ("top/a.txt", b"voxels" * 50), ("top/in/b.png", png()[0]), ("__MACOSX/._a", b"x")]
    return [mutate.zipped(members, way) for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)]


def patch_archives() -> list[bytes]:
    import zipfile

    def patch(compression: str | None) -> bytes:
        options = {"photometric": "minisblack", "compression": compression}
        return written("a.tif", lambda path: tifffile.imwrite(path, grey()[0], **options))

    members = [(f"patches/{name}.tif", patch(way)) for name, way in (("a", None), ("b", "lzw"), ("c", "deflate"))]
    return [mutate.zipped(members, way) for way in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]


def results() -> list[bytes]:
    import made_results as made

    from embench.data.task import Scoring
    from embench.scoring.results import save

    matched = made.task("perez-mito", scoring=Scoring("2d", match_instances=True))
    volume = made.task("made-volume", classes=("background", "one", "two"), scoring=Scoring("stack", classes=(1, 2)))
    several = (made.result(on=matched), made.result(on=volume), made.result(status="diverged"))
    return [written("seed-0.json", lambda path: save(each, path)) for each in several]  # noqa: B023


def cards() -> list[bytes]:
    import toy

    from embench.models.checkpoints import ImportedCard

    facts = {"method": "mocov2", "data": "cem500k", "data_hash": None, "scale": "full", "norms": (0.5, 0.1)}
    more = {"synthetic": False, "source": "a.pth.tar", "source_hash": "0" * 64, "kind": "mocov2", "left_out": {"q": 2}}
    imported = ImportedCard.model_validate(facts | more)
    return [toy.card("retina", model="retina").model_dump_json().encode(), imported.model_dump_json().encode()]


def safetensors() -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [save({"a.weight": torch.ones(3, 4), "b": torch.zeros(5, dtype=torch.int64)}), save({"c": torch.ones(())})]


def states() -> list[bytes]:
    """Training states as trials save them."""
    import torch

    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    training = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "curve": [(1, 0.5, 0.1)]}
    torch.save({"training": training, "scores": ["{}"], "seconds": {"training": 1.0}}, buffer := io.BytesIO())
    return [buffer.getvalue()]


def checkpoints() -> list[bytes]:
    """Published ones: torch's zip and older formats, and a numpy archive."""
    import torch

    norm = "transformer.encoder.encoder_norm.weight"
    moco = {"state_dict": {"module.encoder_q.conv1.weight": torch.ones(2, 1, 3, 3)}, "norms": (0.5, 0.1), "epoch": 3}
    found = []
    for content in (moco, {f"module.{norm}": torch.ones(4), "module.decoder.a": torch.zeros(2)}):
        for new in (True, False):
            torch.save(content, buffer := io.BytesIO(), _use_new_zipfile_serialization=new)
            found.append(buffer.getvalue())
    arrays = {"Transformer/encoder_norm/scale": np.ones(4, "f4"), "conv_root/kernel": np.ones((3, 3, 1, 2), "f4")}
    np.savez(buffer := io.BytesIO(), **arrays)
    np.savez_compressed(packed := io.BytesIO(), **arrays)
    return [*found, buffer.getvalue(), packed.getvalue()]


def prints() -> list[bytes]:
    from embench.data import patches

    kept = {"hash": np.array("0" * 64), "prints": np.zeros(9, patches.PRINT)}
    np.savez(buffer := io.BytesIO(), **kept)  # type: ignore[arg-type]
    np.savez_compressed(packed := io.BytesIO(), **kept)  # type: ignore[arg-type]
    return [buffer.getvalue(), packed.getvalue()]


def prepared() -> list[bytes]:
    import toy

    from embench.data import store
    from embench.data.task import Item, UnlabelledSet

    image, labels = toy.discs(1, 2)
    items = [Item(split, split, image[:, :24, :32], labels[:, :24, :32]) for split in ("train", "test")]  # type: ignore[arg-type]
    unlabelled = UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny")
    return [
        written("toy.h5", lambda path: store.write(path, toy.TOY, items)),
        written("toy.h5", lambda path: store.write(path, unlabelled, [Item("train", "a", image[:, :24, :32])])),
    ]


def specs() -> list[bytes]:
    """The JSON by which a prepared file says what it is."""
    import toy

    from embench.data.task import Scoring, Task, UnlabelledSet

    classes = ("background", "a", "b")
    volume = Task("cells", "C", "own", classes, Scoring("orthoplane", (1, 2)), 100, voxel_size=(15, 16, 16))
    described = (toy.TOY, volume, UnlabelledSet("toy-unlabelled", "", "toy", scale="tiny"))
    return [json.dumps(asdict(each)).encode() for each in described]


def plans() -> list[bytes]:
    import toy

    from embench.runs import plan
    from embench.runs.plan import TrialKey
    from embench.scoring.schema import fingerprint
    from embench.training.recipe import RECIPES

    mark, places = fingerprint(toy.TOY, "0" * 64, 8), (Path("/data"), Path("results"), Path("w"))
    found = []
    for recipe in RECIPES.values():
        used = recipe.for_task(toy.TOY)
        key = TrialKey("retina", "toy", used, mark, "1" * 64, 3, "encoder")
        trial = plan.TrialSpec("retina", "toy", 3, used, "default", "open", 8, (4, 8), key, *places, "cpu", 1)
        with tempfile.TemporaryDirectory() as folder:
            found.append(plan.write([replace(trial, results_folder=Path(folder))]).read_bytes())
    return found


def notes() -> list[bytes]:
    from embench.runs import worker

    progress = worker.Progress(stage="training", iteration=5, first=0, seconds=2.5, loss=0.5, host="node", process=9)
    failure = worker.Failure(kind="error", message="ValueError: no", host="node", trace="Traceback")
    return [progress.model_dump_json().encode(), failure.model_dump_json().encode()]


def records() -> list[bytes]:
    return [json.dumps({"url": "https://a.example/b.zip", "sha256": "0" * 64, "verified": True}).encode()]


def splits() -> list[bytes]:
    by_section = b"name,split,first,last\none,train,0,1\none,test,2,2\ntwo,valid,,\n"
    return [b"name,split\none,train\ntwo.png,test\n", by_section]
