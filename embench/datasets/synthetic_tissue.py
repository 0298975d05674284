"""Synthetic electron microscopy: tissue drawn from level sets, then exposed as a microscope would.

A :class:`Tissue` is a block of warped power-diagram cells with membranes, into which organelles are placed without
overlap; :func:`expose` turns its grey values into noisy, unevenly lit 8-bit sections. Lengths are in pixels of the
image plane throughout; ``step`` is the distance between sections in the same unit.

Everything is computed in float64 from the Generator that is passed in: rounding differences between platforms are
some 1e-13 of a grey level, so the 8-bit result is the same wherever NumPy draws the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VERSION = 1
"""Raised whenever a change here changes a generated voxel."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Range = tuple[float, float]

_NEIGHBOURS = 5


@dataclass(frozen=True)
class Blob:
    """A placed organelle, on the part of the tissue around it.

    Parameters
    ----------
    where : tuple of slice
        Its window in the volume, ZYX.
    depth : ndarray of float
        Distance below its surface, positive inside; of the window's shape.
    along : ndarray of float
        Coordinate along its long axis, 0 at the centre.
    """

    where: tuple[slice, slice, slice]
    depth: Floats
    along: Floats

    @property
    def inside(self) -> Mask:
        """Its voxels within the window."""
        return self.depth > 0


class Tissue:
    """Cells with membranes and textured cytoplasm, and the means to put organelles into them.

    Parameters
    ----------
    rng : numpy.random.Generator
    shape : (int, int, int)
        ZYX.
    step : float
        Distance between sections.
    cell : float
        Typical diameter of a cell.
    gap : (float, float)
        Half the width of the space between cells, and how much it varies from place to place.
    jitter : float
        Standard deviation of the shift from section to section (serial sections).
    elongation : float
        How much longer cells are across the sections than within.
    tones : (float, float)
        Mean and spread of the cytoplasm's grey value from cell to cell, 0 (black) to 1.
    texture : float
        Strength of the cytoplasm's texture.
    membrane : float
        Darkness of the membranes.
    plasma : float
        Grey value between the cells.

    Attributes
    ----------
    grey : ndarray of float
        (Z, Y, X), the picture so far; 0 is black, 1 white.
    cell, other : ndarray of int
        (Z, Y, X), the cell of each voxel and the cell beyond the nearest membrane.
    depth : ndarray of float
        (Z, Y, X), distance below the cell's surface, negative between cells.
    room : ndarray of float
        (Z, Y, X), distance to the nearest membrane or placed organelle, negative inside either.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int, int],
        *,
        step: float = 1.0,
        cell: float = 32.0,
        gap: Range = (0.8, 0.35),
        jitter: float = 0.0,
        elongation: float = 1.0,
        tones: Range = (0.68, 0.05),
        texture: float = 1.0,
        membrane: float = 0.5,
        plasma: float = 0.75,
    ) -> None:
        self.rng, self.shape, self.step = rng, shape, step
        self._fine, self._grain, self._coarse, self._wobble = (self.noise(s) for s in (0.7, 1.4, 3.5, 6.0))
        shift = jitter * rng.standard_normal((2, shape[0], 1, 1))
        self.position: tuple[Floats, Floats, Floats] = (
            np.arange(shape[0], dtype=np.float64).reshape(-1, 1, 1) * step,
            np.arange(shape[1]).reshape(1, -1, 1) + shift[0],
            np.arange(shape[2]).reshape(1, 1, -1) + shift[1],
        )
        self._grow(cell, gap, elongation)
        self.room = self.depth.copy()
        self._draw_cells(tones, texture, membrane, plasma)

    def noise(self, size: float) -> Floats:
        """Return a (Z, Y, X) field of mean 0 and deviation 1, Gaussian-smoothed over ``size``; it wraps around."""
        spectrum = np.fft.rfftn(self.rng.standard_normal(self.shape))
        for axis, (length, step) in enumerate(zip(self.shape, (self.step, 1.0, 1.0), strict=True)):
            frequency = np.fft.rfftfreq(length) if axis == 2 else np.fft.fftfreq(length)
            fall = np.exp(-2 * (np.pi * frequency * size / step) ** 2)
            spectrum *= fall.reshape([-1 if a == axis else 1 for a in range(3)])
        field = np.fft.irfftn(spectrum, self.shape, axes=(0, 1, 2))
        field -= field.mean()
        return field / field.std()

    def _grow(self, cell: float, gap: Range, elongation: float) -> None:
        """Partition the volume into cells."""
        extent = np.array([self.shape[0] * self.step / elongation, *self.shape[1:]], float)
        low, high = np.full(3, -0.8 * cell), extent + 0.8 * cell
        # Two seeds to a cell: cells of several seeds are not convex.
        seeds = self.rng.uniform(low, high, (int(2 * np.prod((high - low) / cell)), 3))
        group = self.rng.integers(0, 1 << 30, len(seeds))
        nearest = _nearest(seeds, seeds, 2)[1][:, 1]
        merged = self.rng.random(len(seeds)) < 0.5
        group[merged] = group[nearest[merged]]
        # A power diagram is a Voronoi diagram with one more coordinate; the weights spread the cells' sizes.
        lift = cell * np.sqrt(self.rng.uniform(0, 0.25, len(seeds)))
        bend, ripple = 0.28 * cell, 0.9
        where = np.zeros((*self.shape, 4))
        for axis in range(3):
            where[..., axis] = self.position[axis] / (elongation if axis == 0 else 1)
            if self.shape[axis] > 1:  # a lone section is as good bent as flat
                where[..., axis] += bend * self.noise(0.5 * cell) + ripple * self.noise(4.0)
        far, index = _nearest(np.column_stack([seeds, lift]), where, _NEIGHBOURS)
        own, others = index[..., :1], index[..., 1:]
        span = np.sqrt(((seeds[:, None] - seeds) ** 2).sum(-1)) + 1e-9
        distance = (far[..., 1:] ** 2 - far[..., :1] ** 2) / (2 * span[own, others])
        distance += cell * (group[others] == group[own])
        chosen = distance.argmin(-1)[..., None]
        nearest_own, nearest_other = own[..., 0], np.take_along_axis(others, chosen, -1)[..., 0]
        self.cell, self.other = group[nearest_own], group[nearest_other]
        self._gap = np.maximum(gap[0] + gap[1] * self.noise(8.0), 0.3)
        self.depth = np.take_along_axis(distance, chosen, -1)[..., 0] - self._gap
        # How the nearest membrane stands: 0 upright, 1 in the plane of the section.
        lean = np.abs(seeds[:, None, 0] - seeds[:, 0]) / span
        self._lean = lean[nearest_own, nearest_other]

    def _draw_cells(self, tones: Range, texture: float, membrane: float, plasma: float) -> None:
        ids, cell = np.unique(self.cell, return_inverse=True)
        cell = cell.reshape(self.shape)
        tone = tones[0] + tones[1] * self.rng.standard_normal(len(ids))
        rough = texture * self.rng.uniform(0.5, 1.4, len(ids))
        speckle = 0.045 * self._fine + 0.045 * self._grain + 0.025 * self._coarse
        # Ribosomes, filaments: dark dots rather than symmetric noise.
        speckle -= 0.22 * np.clip(self._grain - 1.0, 0, 1.2) * (1 + 0.6 * np.tanh(self._coarse))
        grey = tone[cell] + rough[cell] * speckle
        interior = np.clip(self.depth + 0.5, 0, 1)
        self.grey = plasma * (1 - interior) + grey * interior
        # A section has a thickness: a membrane that leans is wide and pale.
        width = 0.95 + 2.5 * np.clip(self._lean - 0.35, 0, 1) ** 2 * min(max(self.step, 1.5), 4)
        line = np.exp(-(((self.depth - 0.4) / width) ** 2)) * (0.95 / width) ** 0.5
        self.grey -= membrane * line * (1 + 0.15 * self._wobble)

    # Placing

    def blobs(
        self,
        count: int,
        radius: Range,
        aspect: Range = (1.0, 1.3),
        *,
        bend: float = 0.0,
        wobble: float = 0.08,
        margin: float = 1.5,
        within: Mask | None = None,
        pick: int = 1,
        whole: float = 0.45,
    ) -> Iterator[Blob]:
        """Place up to ``count`` ellipsoids where there is room, bent, uneven, and squeezed by what surrounds them.

        Parameters
        ----------
        count : int
        radius : (float, float)
            Of the short axes.
        aspect : (float, float)
            Long axis over short.
        bend : float
            Curvature of the long axis; 0.5 is a banana.
        wobble : float
            Unevenness of the surface.
        margin : float
            Distance kept from membranes and other organelles.
        within : ndarray of bool, optional
            Where centres may lie.
        pick : int
            The roomiest of so many candidates is taken.
        whole : float
            Fraction of the ellipsoid that must remain.

        Yields
        ------
        Blob
            Already subtracted from :attr:`room`.
        """
        from scipy import ndimage

        placed = 0
        for _ in range(6 * count):
            if placed == count:
                return
            size = self.rng.uniform(*radius)
            length = size * self.rng.uniform(*aspect)
            free = self.room > 0.75 * size + margin
            candidates = np.flatnonzero(free if within is None else free & within)
            turn = _rotation(self.rng)
            if not candidates.size:
                continue
            tried = candidates[self.rng.integers(0, candidates.size, pick)]
            centre = np.unravel_index(tried[self.room.flat[tried].argmax()], self.shape)
            blob = self._ellipsoid(centre, size, length, turn, bend, wobble)
            room = self.room[blob.where]
            depth = np.minimum(blob.depth, room - margin)
            # Only the part that holds together with the centre: squeezing may have cut the rest off.
            pieces = ndimage.label(depth > 0)[0]
            here = tuple(int(c) - w.start for c, w in zip(centre, blob.where, strict=True))
            piece = pieces == pieces[here] if pieces[here] else np.zeros(depth.shape, bool)
            if piece.sum() < whole * (blob.depth > 0).sum():
                continue
            depth = np.where((pieces > 0) & ~piece, -9.0, depth)
            self.room[blob.where] = np.minimum(room, -depth)
            placed += 1
            yield Blob(blob.where, depth, blob.along)

    def _ellipsoid(
        self, centre: Sequence[np.intp | int], size: float, length: float, turn: Floats, bend: float, wobble: float
    ) -> Blob:
        reach = length * (1 + bend) + 4
        steps = (self.step, 1.0, 1.0)
        where = tuple(
            slice(max(int(c - reach / s), 0), min(int(c + reach / s) + 2, n))
            for c, s, n in zip(centre, steps, self.shape, strict=True)
        )
        local = []
        for axis in range(3):
            window = tuple(w if n > 1 else slice(None) for w, n in zip(where, self.position[axis].shape, strict=True))
            local.append(self.position[axis][window] - self._at(axis, centre))
        u, v, w = (turn[i, 0] * local[0] + turn[i, 1] * local[1] + turn[i, 2] * local[2] for i in range(3))
        v = v + bend * (u**2 / length - length / 3)
        radius = np.sqrt((u / length) ** 2 + (v / size) ** 2 + (w / size) ** 2)
        slope = np.sqrt((u / length**2) ** 2 + (v / size**2) ** 2 + (w / size**2) ** 2) + 1e-9
        z, y, x = where
        uneven = radius * (1 + wobble * self._wobble[z, y, x])
        depth = np.where(radius < 0.1, 0.9 * size, radius * (1 - uneven) / slope)
        return Blob((z, y, x), depth, u)

    def _at(self, axis: int, centre: Sequence[np.intp | int]) -> float:
        """Physical position of a voxel along an axis."""
        array = self.position[axis]
        return float(array[tuple(int(c) if n > 1 else 0 for c, n in zip(centre, array.shape, strict=True))])

    def mask(self, blobs: Iterator[Blob] | Sequence[Blob]) -> Mask:
        """Return the voxels of all ``blobs``."""
        found = np.zeros(self.shape, bool)
        for blob in blobs:
            found[blob.where] |= blob.inside
        return found

    # Drawing

    def _fill(self, blob: Blob, grey: Floats | float, membrane: float = 0.0) -> None:
        opaque = np.clip(blob.depth + 0.5, 0, 1)
        here = self.grey[blob.where]
        here += opaque * (grey - here)
        here -= membrane * np.exp(-(((blob.depth - 0.3) / 0.9) ** 2))

    def _textures(self, blob: Blob) -> tuple[Floats, Floats, Floats]:
        return self._fine[blob.where], self._grain[blob.where], self._coarse[blob.where]

    def mitochondria(self, count: int, radius: Range, aspect: Range = (1.2, 2.4), tone: float = 0.46) -> Mask:
        """Draw mitochondria (double membrane, cristae) and return their voxels."""
        drawn = []
        for blob in self.blobs(count, radius, aspect, bend=self.rng.uniform(0, 0.35)):
            fine, grain, coarse = self._textures(blob)
            matrix = tone + 0.04 * self.rng.standard_normal()
            period = self.rng.uniform(3.2, 4.6)
            phase = 2 * np.pi * (blob.along / period + 0.22 * coarse + self.rng.random())
            reach = np.clip(0.6 + 0.5 * self._wobble[blob.where] + 0.4 * grain, 0, 1)
            cristae = 0.16 * reach * np.cos(phase) * np.clip((blob.depth - 1) / 1.5, 0, 1)
            grey = matrix + cristae + 0.025 * fine + 0.03 * grain
            grey = grey + 0.10 * np.exp(-(((blob.depth - 1.9) / 0.6) ** 2))
            grey = grey - 0.14 * np.exp(-(((blob.depth - 3.0) / 0.7) ** 2))
            self._fill(blob, grey, 0.26)
            drawn.append(blob)
        return self.mask(drawn)

    def lysosomes(self, count: int, radius: Range, tone: float = 0.38) -> Mask:
        """Draw lysosomes (dark, mottled, with inclusions) and return their voxels."""
        drawn = []
        for blob in self.blobs(count, radius, (1.0, 1.4), wobble=0.14):
            fine, grain, coarse = self._textures(blob)
            grey = tone + 0.03 * self.rng.standard_normal() + 0.07 * coarse + 0.07 * grain + 0.03 * fine
            grey = np.where((coarse + 0.3 * grain > 1.2) & (blob.depth > 1.5), 0.62, grey)  # lipid
            grey = np.where(coarse + 0.3 * grain < -1.1, 0.14, grey)  # dense bodies
            self._fill(blob, grey, 0.16)
            drawn.append(blob)
        return self.mask(drawn)

    def granules(self, count: int, radius: Range, tone: float = 0.42, margin: float = 1.5) -> Mask:
        """Draw smooth, even granules or lipid droplets and return their voxels."""
        drawn = []
        for blob in self.blobs(count, radius, (1.0, 1.35), margin=margin):
            fine, _, coarse = self._textures(blob)
            grey = tone + 0.03 * self.rng.standard_normal() + 0.015 * fine + 0.012 * coarse
            self._fill(blob, grey - 0.04 * np.clip(blob.depth / 4, 0, 1), 0.10)
            drawn.append(blob)
        return self.mask(drawn)

    def vacuoles(
        self, count: int, radius: Range, aspect: Range = (1.0, 1.5), tone: float = 0.82, contents: float = 0.0
    ) -> Mask:
        """Draw light, membrane-bound spaces, empty or with ``contents`` (multivesicular), and return their voxels."""
        drawn = []
        for blob in self.blobs(count, radius, aspect, bend=0.3, wobble=0.15):
            fine, grain, _ = self._textures(blob)
            dots = contents * np.clip(grain - 0.5, 0, 1.5) * np.clip((blob.depth - 1.5) / 1.5, 0, 1)
            self._fill(blob, tone + 0.015 * fine - 0.25 * dots, 0.28)
            drawn.append(blob)
        return self.mask(drawn)

    def dense_granules(self, count: int, radius: Range) -> tuple[Mask, Mask]:
        """Draw light granules with a nearly black core off their centre; return the voxels of whole and core."""
        whole, core = np.zeros(self.shape, bool), np.zeros(self.shape, bool)
        for blob in self.blobs(count, radius, (1.0, 1.3)):
            fine, _, _ = self._textures(blob)
            self._fill(blob, 0.80 + 0.015 * fine, 0.25)
            deepest = blob.depth.max()
            depth = blob.depth - deepest * self.rng.uniform(0.32, 0.42) + 0.12 * blob.along
            inner = Blob(blob.where, np.minimum(depth, blob.depth - 1), blob.along)
            self._fill(inner, 0.12 + 0.02 * fine)
            whole[blob.where] |= blob.inside
            core[blob.where] |= inner.inside
        return whole, core

    def nuclei(self, count: int, radius: Range, nucleoli: Range | None = None) -> tuple[Mask, Mask]:
        """Draw nuclei (envelope, chromatin) with 1 or 2 ``nucleoli`` of that radius; return both kinds' voxels.

        A cell has one nucleus at most.
        """
        drawn: list[Blob] = []
        empty = np.ones(self.shape, bool)
        for _ in range(count):
            for blob in self.blobs(1, radius, (1.0, 1.35), wobble=0.07, margin=3.0, within=empty, pick=8, whole=0.8):
                drawn.append(blob)
                empty &= ~np.isin(self.cell, self.cell[blob.where][blob.inside])
        tone = self.grey[self.depth > 2].mean()
        for blob in drawn:
            fine, grain, coarse = self._textures(blob)
            lump = 0.8 * coarse + 0.35 * grain
            grey = tone + 0.07 + 0.02 * self.rng.standard_normal() + 0.03 * grain + 0.03 * fine
            grey = grey - 0.20 * np.clip((lump - 0.75) * 2, 0, 1)
            grey = grey - 0.15 * np.exp(-(((blob.depth - 4) / 2) ** 2)) * np.clip(lump + 0.7, 0, 1)
            grey = grey + 0.10 * np.exp(-(((blob.depth - 1.4) / 0.7) ** 2))
            self._fill(blob, grey, 0.26)
            self.grey[blob.where] -= 0.18 * np.exp(-(((blob.depth - 2.8) / 0.8) ** 2))
        nucleus = self.mask(drawn)
        spots: list[Blob] = []
        if nucleoli is not None:
            for blob in drawn:
                self.room[blob.where] = np.where(blob.inside, blob.depth - 2, self.room[blob.where])
                here = np.zeros(self.shape, bool)
                here[blob.where] = blob.inside
                number = int(self.rng.integers(1, 3))
                spots += self.blobs(number, nucleoli, (1.0, 1.4), wobble=0.2, margin=1.0, within=here)
                self.room[blob.where] = np.where(blob.inside, -blob.depth, self.room[blob.where])
            for blob in spots:
                fine, grain, coarse = self._textures(blob)
                self._fill(blob, tone - 0.26 + 0.07 * grain + 0.04 * coarse + 0.03 * fine)
        return nucleus, self.mask(spots)

    def reticulum(self, amount: float = 0.4, size: float = 7.0) -> None:
        """Draw strands of endoplasmic reticulum in the free cytoplasm; ``amount`` 0..1 is how much of it has any."""
        sheet, gate = self.noise(size), self.noise(2 * size)
        slope = np.hypot(np.gradient(sheet, axis=1), np.gradient(sheet, axis=2)) + 0.02
        distance = np.abs(sheet) / slope
        here = np.clip(3 * (gate - 1.5 + 2.5 * amount), 0, 1) * np.clip((self.room - 2) / 2, 0, 1)
        self.grey += here * 0.08 * np.exp(-((distance / 0.9) ** 2))
        self.grey -= here * 0.22 * np.exp(-(((distance - 1.7) / 0.7) ** 2))

    def vesicles(self, count: int, within: Mask | None = None, radius: Range = (1.7, 2.5)) -> None:
        """Draw small round vesicles, each in one section, where there is room (and ``within``)."""
        free = self.room > 1.5
        places = np.flatnonzero(free if within is None else free & within)
        if not places.size:
            return
        for place in places[self.rng.integers(0, places.size, count)]:
            z, y, x = (int(i) for i in np.unravel_index(place, self.shape))
            size = self.rng.uniform(*radius)
            rows, columns = _around_index(y, self.shape[1]), _around_index(x, self.shape[2])
            from_y, from_x = np.arange(rows.start, rows.stop) - y, np.arange(columns.start, columns.stop) - x
            distance = np.sqrt(from_y[:, None] ** 2 + from_x**2)
            here = self.grey[z, rows, columns]
            here += np.where(distance < size, 0.5, 0) * (0.78 - here)
            here -= 0.22 * np.exp(-(((distance - size) / 0.7) ** 2)) * (self.room[z, rows, columns] > 0.5)

    def synapses(self, count: int, radius: Range, spacing: float = 12.0) -> Mask:
        """Draw chemical synapses on membranes between two cells and return their clefts.

        Both membranes are dark, the receiving one thickened, and vesicles crowd on the other side.
        """
        cleft = np.zeros(self.shape, bool)
        taken: list[Floats] = []
        for _ in range(6 * count):
            if len(taken) == count:
                break
            size = self.rng.uniform(*radius)
            site, near = self._contact(size, upright=True)
            centre = np.array([self._at(axis, site) for axis in range(3)])
            # A patch must be long and deep enough to be seen, and not run into another.
            if near.sum() < 8 * size or any(((centre - t) ** 2).sum() < (spacing + size) ** 2 for t in taken):
                continue
            taken.append(centre)
            pre = self.cell == self.cell[site]
            density = np.where(pre, np.exp(-((self.depth / 1.6) ** 2)), np.exp(-((self.depth / 3.2) ** 2)))
            self.grey -= near * 0.38 * density * np.clip(self.depth + 0.7, 0, 1)
            cleft |= near & (self.depth < 1.4)
            cloud = self._around(centre, size + 5) & pre & (self.depth > 2.5) & (self.depth < 13)
            self.vesicles(int(2.2 * size), cloud)
        return cleft

    def thickenings(self, count: int, radius: Range) -> None:
        """Draw patches of dark, fuzzy membrane that are no synapses: no cleft, no vesicles."""
        for _ in range(count):
            _, near = self._contact(self.rng.uniform(*radius))
            self.grey -= near * 0.45 * np.exp(-((self.depth / 2.6) ** 2)) * (self.depth > -0.6)

    def _contact(self, size: float, upright: bool = False) -> tuple[tuple[int, int, int], Mask]:
        """Return a voxel beside a membrane, and the part of that membrane's two sides within ``size`` of it."""
        tight = (self._gap < 1.3) & (self._lean < 0.7) if upright else np.ones(self.shape, bool)
        sides = np.flatnonzero((self.depth > 0.5) & (self.depth < 1.5) & tight)
        z, y, x = (int(i) for i in np.unravel_index(sides[self.rng.integers(0, sides.size)], self.shape))
        a, b = self.cell[z, y, x], self.other[z, y, x]
        centre = np.array([self._at(axis, (z, y, x)) for axis in range(3)])
        pair = ((self.cell == a) & (self.other == b)) | ((self.cell == b) & (self.other == a))
        return (z, y, x), pair & tight & (self.depth < 7) & self._around(centre, size)

    def _around(self, centre: Floats, size: float) -> Mask:
        z, y, x = (self.position[axis] - centre[axis] for axis in range(3))
        near: Mask = z**2 + y**2 + x**2 < size**2
        return near

    def dust(self, count: int) -> None:
        """Drop clumps of black stain, each on one section."""
        for _ in range(count):
            z, y, x = (int(self.rng.integers(0, n)) for n in self.shape)
            far = np.hypot(np.arange(self.shape[1])[:, None] - y, np.arange(self.shape[2])[None] - x)
            clump = far + 2 * self._grain[z] < self.rng.uniform(1.5, 4)
            self.grey[z][clump] = 0.05


def _nearest(seeds: Floats, points: Floats, count: int) -> tuple[Floats, NDArray[np.intp]]:
    """Return distances to and indices of the ``count`` seeds nearest to each point, along a new last axis."""
    from scipy.spatial import cKDTree

    distance, index = cKDTree(seeds, leafsize=8).query(points, count)
    return np.asarray(distance), np.asarray(index)


def _around_index(index: int, length: int, reach: int = 5) -> slice:
    return slice(max(index - reach, 0), min(index + reach + 1, length))


def _rotation(rng: np.random.Generator) -> Floats:
    """Return three random orthonormal rows."""
    first, second = rng.standard_normal((2, 3))
    first = first / np.sqrt((first**2).sum())
    second = second - (second * first).sum() * first
    second = second / np.sqrt((second**2).sum())
    return np.stack([first, second, np.cross(first, second)])


def expose(
    tissue: Tissue,
    *,
    mean: float,
    deviation: float,
    blur: float = 0.6,
    noise: float = 0.05,
    shading: float = 0.05,
    flicker: float = 0.03,
    curtain: float = 0.0,
) -> NDArray[np.uint8]:
    """Take the picture: blur, uneven light, flicker between sections, knife marks, shot and reading noise.

    Parameters
    ----------
    tissue : Tissue
    mean, deviation : float
        Of the result's grey values, 0..1.
    blur : float
        Deviation of the point spread within a section.
    noise : float
        Deviation of the noise at mid grey, before ``deviation`` scales the picture.
    shading : float
        Unevenness of brightness and contrast within a section.
    flicker : float
        The same from section to section.
    curtain : float
        Strength of stripes along y.

    Returns
    -------
    ndarray of uint8
        (Z, Y, X)
    """
    from scipy import ndimage

    rng, (depth, height, width) = tissue.rng, tissue.shape
    picture = ndimage.gaussian_filter(tissue.grey, (0, blur, blur))
    per_section = (depth, 1, 1)
    light = shading * tissue.noise(max(height, width) / 5)
    contrast = 1 + 1.5 * shading * tissue.noise(max(height, width) / 4)
    contrast *= 1 + 2 * flicker * rng.standard_normal(per_section)
    middle = picture.mean()
    picture = middle + (picture - middle) * contrast + light + flicker * rng.standard_normal(per_section)
    stripes = ndimage.gaussian_filter(rng.standard_normal((depth, 1, width)), (0, 0, 0.8))
    picture += curtain * stripes
    shot = np.sqrt(np.clip(picture, 0.02, None)) * rng.standard_normal(tissue.shape)
    grains = 0.85 * noise * shot + 0.5 * noise * rng.standard_normal(tissue.shape)
    # The camera's response correlates neighbouring pixels a little.
    picture += ndimage.gaussian_filter(grains, (0, 0.45, 0.45)) * 1.2
    picture = mean + deviation * (picture - picture.mean()) / picture.std()
    return np.clip(np.rint(255 * picture), 0, 255).astype(np.uint8)
