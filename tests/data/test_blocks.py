"""Blocks of a volume, and what is joined from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from embench.data.blocks import blocks, predict_blocks

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@given(shape=sizes, block=sizes, halo=st.tuples(*[st.integers(0, 4)] * 3))
def test_blocks_cover_every_voxel_once_and_read_at_most_their_halo_more(shape, block, halo):
    written = np.zeros(shape, int)
    for part in blocks(shape, block, halo):
        written[part.write] += 1
        for read, inner, write, length, margin in zip(part.read, part.inner, part.write, shape, halo, strict=True):
            assert read.start + inner.start == write.start
            assert inner.stop - inner.start == write.stop - write.start
            assert 0 <= write.start - read.start <= margin
            assert 0 <= read.stop - write.stop <= margin
            assert read.stop <= length
            assert read.start == max(write.start - margin, 0)
            assert read.stop == min(write.stop + margin, length)
    assert (written == 1).all()


@given(shape=sizes, block=sizes, seed=st.integers(0, 99))
def test_a_filter_no_wider_than_the_halo_gives_the_same_in_blocks_as_on_the_whole(shape, block, seed):
    volume_ZYX = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)

    def smooth(image_ZYX):
        return ndimage.uniform_filter(image_ZYX.astype(np.float32), 3, mode="constant")[None]

    joined_CZYX = np.full((1, *shape), np.nan, np.float32)
    for part, scores_CZYX in predict_blocks(smooth, volume_ZYX, block, (1, 1, 1)):
        joined_CZYX[(slice(None), *part.write)] = scores_CZYX
    np.testing.assert_allclose(joined_CZYX, smooth(volume_ZYX), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "block", "halo"),
    [((4, 4), (2, 2), (1, 1)), ((4, 4, 4), (0, 2, 2), (0, 0, 0)), ((4, 4, 4), (2, 2, 2), (-1, 0, 0))],
)
def test_what_is_no_volume_block_or_halo_is_refused(shape, block, halo):
    with pytest.raises(ValueError, match="expected"):
        list(blocks(shape, block, halo))
