"""Numbers that say which harness made a result.

Raise a number when a change alters what it stands for at the same seed: results of different revisions are never
ranked together. A test holds a tiny trial to what the present revisions give. 0 stands for results from before there
were numbers.
"""

from __future__ import annotations

SCORING_REVISION = 1
"""From a trained network to its score: inference, thresholds, counts, and the score from them."""
TRAINING_REVISION = 1
"""From a seed to a trained network: sampling, augmentation, losses, optimisers, schedules, the adapters' defaults."""
