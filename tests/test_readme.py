"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

from toy import TOY, discs

from embench.core import paths
from embench.data import store
from embench.data.task import Item
from embench.runs import trial
from embench.runs.options import RunRequest
from embench.runs.request import trials

README = Path(__file__).parents[1] / "README.md"


def test_the_model_of_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (command,) = re.findall(r"embench run --model (mymodel\.py:\w+)", README.read_text())
    assert len(example.strip().splitlines()) <= 11
    (tmp_path / "mymodel.py").write_text(example)
    items = [Item(split, split, *discs(seed, 4)) for split, seed in (("train", 1), ("test", 2))]  # type: ignore[arg-type]
    store.write(paths.prepared_path("toy", tmp_path), TOY, items)
    asked = RunRequest(
        models=[str(tmp_path / command)], tasks=["toy"], seeds=1, device="cpu", data=tmp_path, results=tmp_path
    )
    (spec,) = trials(asked)
    result = trial.run(spec)
    assert result is not None
    assert result.row == "three-convolutions"
    assert result.score is not None


def test_what_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        assert target.startswith("http") or (README.parent / target).exists(), target
