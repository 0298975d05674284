"""A tiny trial held to what the present revisions of scoring and training give.

When one of these fails, a change has altered scores or training at the same seed. If that is meant, raise the number
in :mod:`embench.core.revision` and write the pinned figures anew:

    python -m pytest tests/runs/test_pinned_trial.py --override-ini=addopts= -q  # shows what differs
    EMBENCH_PIN=1 python -m pytest tests/runs/test_pinned_trial.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from toy import planned

from embench.core.revision import SCORING_REVISION, TRAINING_REVISION
from embench.runs import trial

PINNED = Path(__file__).parents[1] / "files" / "pinned_trial.json"
PREDICTOR = """
from embench import SegmentationModel

class Threshold(SegmentationModel):
    def predict(self, image, task):
        return (image[None] / 255).astype("float32")
"""


def pin(name: str, revision: int, found: object) -> object:
    """Return what is pinned for this revision; with EMBENCH_PIN set, pin what was found."""
    pinned = json.loads(PINNED.read_text()) if PINNED.is_file() else {}
    if os.environ.get("EMBENCH_PIN"):
        pinned[name] = {"revision": revision, "value": found}
        PINNED.write_text(json.dumps(pinned, indent=1, sort_keys=True) + "\n")
    assert pinned[name]["revision"] == revision, f"revision {revision}: pin the figures anew (see the module)"
    return pinned[name]["value"]


def test_scores_of_given_predictions_are_those_of_this_scoring_revision(toy_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictor.py"
    path.write_text(PREDICTOR)
    result = trial.run(planned(toy_data, tmp_path / "r", f"{path}:Threshold"))
    assert result is not None
    found = {image.name: image.model_dump(mode="json")["classes"] for image in result.snapshots[-1].images}
    assert found == pin("counts", SCORING_REVISION, found), "scoring has changed: raise SCORING_REVISION"


@pytest.mark.parametrize("model", ["unet-resnet50", "transunet"])
def test_the_loss_curve_is_that_of_this_training_revision(model: str, toy_data: Path, tmp_path: Path) -> None:
    """To a tolerance: processors of another family round differently."""
    result = trial.run(planned(toy_data, tmp_path, model))
    assert result is not None
    found = [[iteration, loss, rate] for iteration, loss, rate in result.loss_curve]
    pinned = pin(f"loss curve of {model}", TRAINING_REVISION, found)
    assert isinstance(pinned, list)
    assert [row[0] for row in found] == [row[0] for row in pinned]
    for (_, loss, rate), (iteration, expected, expected_rate) in zip(found, pinned, strict=True):
        assert rate == pytest.approx(expected_rate, rel=1e-9), f"iteration {iteration}: raise TRAINING_REVISION"
        assert loss == pytest.approx(expected, rel=5e-3), f"iteration {iteration}: raise TRAINING_REVISION"
