"""The compact letter display against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leaderboard.stats.letters import letters


@st.composite
def differences(draw: st.DrawFn) -> NDArray[np.bool_]:
    size = draw(st.integers(0, 9))
    upper = np.triu(
        np.array(draw(st.lists(st.booleans(), min_size=size**2, max_size=size**2)), bool).reshape(size, size), 1
    )
    return upper | upper.T


@given(differences())
def test_two_rows_share_no_letter_exactly_when_they_differ(different: NDArray[np.bool_]) -> None:
    found = letters(different)
    for i, first in enumerate(found):
        assert first, "every row has a letter"
        for j, second in enumerate(found):
            if i != j:
                assert (not set(first) & set(second)) == different[i, j]


@given(differences())
def test_no_letter_is_held_by_a_subset_of_another_ones_rows(different: NDArray[np.bool_]) -> None:
    found = letters(different)
    held = [{k for k, own in enumerate(found) if name in own} for name in sorted(set("".join(found)))]
    assert not any(first < second for first in held for second in held)
    assert len({frozenset(each) for each in held}) == len(held)


def test_letters_run_from_the_best_row_down() -> None:
    different = np.zeros((4, 4), bool)
    different[0, 2] = different[2, 0] = different[0, 3] = different[3, 0] = different[1, 3] = different[3, 1] = True
    assert letters(different) == ["a", "ab", "bc", "c"]


def test_a_hundred_rows_that_all_differ_have_a_letter_of_one_character_each() -> None:
    found = letters(~np.eye(100, dtype=bool))
    assert len(set(found)) == 100
    assert all(len(each) == 1 and each.isalpha() for each in found)


@pytest.mark.parametrize("wrong", [np.triu(np.ones((3, 3), bool), 1), np.eye(2, dtype=bool), np.zeros(3, bool)])
def test_what_is_no_matrix_of_differences_is_refused(wrong: NDArray[np.bool_]) -> None:
    with pytest.raises(ValueError, match="symmetric"):
        letters(wrong)
