"""Packages are what the official tools of their formats accept, offline, and what they hold predicts the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import toy

from embench.core.errors import BadInput
from embench.core.paths import prepared_path
from embench.data.croissant import write_croissant
from embench.data.store import Prepared
from embench.models.trained import Trained
from embench.prediction import batch
from embench.prediction.packages import About, pack
from embench.prediction.predict import predict_array
from embench.runs import trial


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    """Train a model once, for two steps."""
    folder = tmp_path_factory.mktemp("results")

    @cache
    def trained(model: str) -> Trained:
        spec = toy.planned(data, folder, model, evaluations=1, iterations=2)
        trial.run(spec)
        return batch.find_network(spec.path, data)

    return trained


def official():  # type: ignore[no-untyped-def]
    """bioimage.io's own tools, where they run: some versions do not with the newest pydantic."""
    try:
        import bioimageio.core as core
        from bioimageio.spec.model import v0_5

        v0_5.FileDescr(source=Path(__file__)).model_dump(mode="json")
    except ImportError as error:
        pytest.skip(f"needs the extra 'package': {error}")
    except Exception as error:
        pytest.skip(f"bioimageio.spec does not work beside this pydantic: {error}")
    return core


@pytest.mark.slow
@pytest.mark.parametrize("model", ["unet-resnet50", "transunet"])
def test_bioimage_io_accepts_a_model_and_reproduces_its_test_output(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = official()
    monkeypatch.setenv("BIOIMAGEIO_CACHE_PATH", str(tmp_path / "cache"))
    out = tmp_path / "model.zip"
    pack(trained(model), out, About(("A. Author",), "CC-BY-4.0", data=data), "bioimageio")
    summary = core.test_description(out, weight_format="torchscript")
    assert summary.status == "passed", summary.format()
    description = core.load_description(out, perform_io_checks=False)
    assert str(description.license) == "CC-BY-4.0"
    assert description.outputs[0].axes[1].channel_names == ["disc"]


def test_a_hugging_face_folder_predicts_what_the_kept_weights_predict(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path
) -> None:
    model = "unet-resnet50"
    out = tmp_path / "repository"
    pack(trained(model), out, About(("A. Author",), "MIT", data=data), "huggingface")
    assert {each.name for each in out.iterdir()} == {"README.md", "model.safetensors", "model.json", "cover.png"}
    image = toy.discs(5, 2)[0]
    again = batch.find_network(out / "model.safetensors")
    np.testing.assert_array_equal(
        predict_array([again], image)["labels"], predict_array([trained(model)], image)["labels"]
    )
    front = (out / "README.md").read_text().split("---\n")[1]
    yaml = pytest.importorskip("yaml")
    facts = yaml.safe_load(front)
    assert facts["license"] == "mit"
    assert facts["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(
        trained(model).card.score, abs=1e-6
    )
    pytest.importorskip("huggingface_hub").ModelCard.load(out / "README.md")


def test_croissant_accepts_a_prepared_task(data: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    with Prepared(prepared_path("toy", data)) as prepared:
        write_croissant(tmp_path / "toy.json", prepared)
    found = mlcroissant.Dataset(jsonld=tmp_path / "toy.json")
    assert not found.metadata.ctx.issues.errors
    names = [record["classes/name"] for record in found.records("classes")]
    assert [name.decode() if isinstance(name, bytes) else name for name in names] == ["background", "disc"]
    splits = [record["volumes/split"] for record in found.records("volumes")]
    assert [split.decode() if isinstance(split, bytes) else split for split in splits] == ["train", "test"]
    assert json.loads((tmp_path / "toy.json").read_text())["name"] == "toy"


@pytest.mark.parametrize(
    ("form", "name", "licence", "said"),
    [
        ("bioimageio", "model.tar", None, r"\.zip"),
        ("bioimageio", "model.zip", "my own words", "SPDX"),
        ("huggingface", "model.zip", None, "folder"),
        ("onnx", "model.onnx", None, "format"),
    ],
)
def test_what_cannot_be_packaged_is_a_line_and_writes_nothing(
    trained: Callable[[str], Trained], data: Path, tmp_path: Path, form: str, name: str, licence: str | None, said: str
) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        pack(trained("unet-resnet50"), tmp_path / name, About(licence=licence, data=data), form)
    assert len(caught.value.lines) == 1
    assert not list(tmp_path.iterdir())
