"""What predictions without a model score: everything background, everything foreground, and chance.

From the counts of any result of a task, which hold how many pixels of a class there are; how many pixels there are in
all comes from the prepared data or the kept sections, and without these only the first is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from embench.core.errors import BadInput
from embench.data.task import Scoring
from embench.scoring.counts import score
from embench.scoring.predictions import section_place
from embench.scoring.results import load
from leaderboard.ranking import stack_of
from leaderboard.trials import Trial

NAMES = ("everything background", "everything foreground", "chance")


def trivial(trial: Trial, sizes: Mapping[str, int]) -> dict[str, float]:
    """Return the score of trivial predictions on the task of a trial that finished.

    Parameters
    ----------
    trial : Trial
        Any of the task: all have the same truth.
    sizes : mapping of str to int
        Pixels of test items (of a whole volume, or of one section where those are scored), where they are known.

    Returns
    -------
    dict
        By name. Chance draws every pixel with the share that its class has in the truth.
    """
    result = load(trial.path)
    if result.final is None:
        return {}
    facts = result.fingerprint.scoring
    scoring = Scoring(**{**facts, "classes": tuple(facts["classes"])})
    labels = scoring.classes
    positive = [
        {label: image.classes[label][0] + image.classes[label][2] for label in labels} for image in result.final.images
    ]
    found = {NAMES[0]: score(scoring, [{label: (0, 0, each[label]) for label in labels} for each in positive])[0]}
    known = {**_kept(trial, scoring), **sizes}
    pixels = [known.get(stack_of(image.name), 0) for image in result.final.images]
    if scoring.ignore_unlabelled or not all(pixels):
        return found
    whole = list(zip(positive, pixels, strict=True))
    share = {label: sum(each[label] for each in positive) / sum(pixels) for label in labels}
    found[NAMES[1]] = score(scoring, [{k: (own[k], size - own[k], 0) for k in labels} for own, size in whole])[0]
    found[NAMES[2]] = score(
        scoring,
        [
            {
                k: (round(share[k] * own[k]), round(share[k] * (size - own[k])), round((1 - share[k]) * own[k]))
                for k in labels
            }
            for own, size in whole
        ],
    )[0]
    return found


def _kept(trial: Trial, scoring: Scoring) -> dict[str, int]:
    """Return the pixels of items whose sections are kept beside the result; only where sections are scored."""
    found: dict[str, int] = {}
    if scoring.is_volume:
        return found
    for name in trial.result.sections:
        try:
            item, _ = section_place(name, trial.path)
            with Image.open(trial.path.parent / name) as picture:
                found[item] = picture.width * picture.height
        except (BadInput, OSError):
            continue  # the page reports it where it draws the section
    return found
