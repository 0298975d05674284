"""The operations of :mod:`embench.training.augment` on a whole batch at once, for a device that a CPU cannot feed.

What is random is drawn by the data workers, sample by sample, as a row of numbers; the pixels are altered on the
device. Every operation gives what its twin in :mod:`embench.training.augment` gives for the same numbers, within a grey
level of interpolation: grey values are brought back to whole numbers after every step, as they are there.

The noise of a sample is torch's own for the sample's seed. So what a sample becomes depends on its generator alone,
not on its neighbours in the batch; but other kinds of device give other noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embench.training import augment


class Operation(Protocol):
    """One alteration of square images.

    Attributes
    ----------
    numbers : int
        How many numbers :meth:`draw` returns.
    """

    numbers: int

    def draw(self, rng: np.random.Generator) -> Sequence[float]:
        """Return what decides about one sample."""

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the altered images, whole grey levels 0..255 as float32.

        Parameters
        ----------
        images_BYX : Tensor
            Whole grey levels as float32; left unchanged.
        drawn : Tensor
            A row of :meth:`draw` per image, float32 (B, numbers), on the same device.
        seeds : sequence of int
            Of whatever is random in every pixel.
        """


class Chain:
    """Operations one after the other, as one."""

    def __init__(self, *operations: Operation | None) -> None:
        self.operations = [operation for operation in operations if operation is not None]
        self.numbers = sum(operation.numbers for operation in self.operations)

    def draw(self, rng: np.random.Generator) -> list[float]:
        return [number for operation in self.operations for number in operation.draw(rng)]

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        parts = drawn.split([operation.numbers for operation in self.operations], dim=1)
        for operation, part in zip(self.operations, parts, strict=True):
            images_BYX = operation(images_BYX, part, seeds)
        return images_BYX


class Batched:
    """An augmentation of whole batches: subclasses say what a sample draws and what becomes of the batch."""

    def draw_one(self, rng: np.random.Generator, height: int, width: int) -> list[float]:
        """Return all numbers of one sample, from a tile of this size."""
        raise NotImplementedError

    def alter(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the views of the padded tiles, whole grey levels as float32 (B, crop, crop)."""
        raise NotImplementedError

    def draw(
        self, tiles: Sequence[NDArray[np.uint8]], generators: Sequence[np.random.Generator], crop: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what :meth:`__call__` makes views of; runs in data workers.

        Parameters
        ----------
        tiles : sequence of uint8 arrays, shape (Y, X)
            Of at most `crop` pixels a side.
        generators : sequence of numpy.random.Generator
            One per tile.
        crop : int

        Returns
        -------
        tiles : uint8, shape (B, crop, crop)
            Padded at their ends; what is there is never looked at.
        drawn : float32, shape (B, numbers)
        seeds : int64, shape (B,)
        """
        padded_BYX = np.zeros((len(tiles), crop, crop), np.uint8)
        rows, seeds = [], np.empty(len(tiles), np.int64)
        for number, (tile, rng) in enumerate(zip(tiles, generators, strict=True)):
            height, width = tile.shape
            padded_BYX[number, :height, :width] = tile
            rows.append(self.draw_one(rng, height, width))
            seeds[number] = rng.integers(2**62)
        return torch.from_numpy(padded_BYX), torch.tensor(rows, dtype=torch.float32), torch.from_numpy(seeds)

    def __call__(self, made: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
        """Return the views, uint8 (B, crop, crop), made on `device` from what :meth:`draw` returned."""
        tiles, drawn, seeds = made
        images = tiles.to(device, non_blocking=True).float()
        views = self.alter(images, drawn.to(device, non_blocking=True), seeds.tolist())
        return tuple(view.to(torch.uint8) for view in views)


# Geometry


class Geometry:
    """Flips (p 0.5 each), rotation about the middle by up to `degrees` (p 0.5), random resized crop.

    Images are reflected where a rotation brings in what is beyond them, and sampled bilinearly twice, as the twins in
    :mod:`embench.training.augment` do.

    Parameters
    ----------
    crop : int
        Edge of the square output, pixels.
    degrees : float
    scale, ratio : (float, float)
        Area of the window as a fraction of the tile's, and its width / height.
    """

    numbers = 9

    def __init__(self, crop: int, degrees: float, scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.crop, self.degrees, self.scale, self.ratio = crop, degrees, scale, ratio

    def draw(self, rng: np.random.Generator, height: int, width: int) -> list[float]:
        """Return height, width, flips (1: mirrored) left-right and up-down, radians, and the window's y, x, h, w."""
        flip_x, flip_y, turned = (rng.random(3) < 0.5).tolist()
        radians = math.radians(rng.uniform(-self.degrees, self.degrees)) if turned else 0.0
        return [height, width, flip_x, flip_y, radians, *self.window(rng, height, width)]

    def window(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """Return y, x, height and width of a window; after ten that do not fit, the largest of allowed ratio."""
        low, high = self.ratio
        for _ in range(10):
            area = height * width * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        w, h = min(width, round(height * high)), min(height, round(width / low))
        return (height - h) // 2, (width - w) // 2, h, w

    def __call__(self, images_BYX: Tensor, drawn: Tensor) -> Tensor:
        """Return the crops, whole grey levels as float32 (B, crop, crop); `drawn` as :meth:`draw` gave it."""
        height, width, flip_x, flip_y, radians, top, left, h, w = drawn[:, :, None, None].unbind(1)
        side = torch.arange(images_BYX.shape[-1], device=drawn.device, dtype=torch.float32)
        dy, dx = side[:, None] - (height - 1) / 2, side - (width - 1) / 2
        y = (dy * radians.cos() + dx * radians.sin()) * (1 - 2 * flip_y) + (height - 1) / 2
        x = (dx * radians.cos() - dy * radians.sin()) * (1 - 2 * flip_x) + (width - 1) / 2
        turned = sampled(images_BYX, reflected(y, height), reflected(x, width))
        middle = torch.arange(self.crop, device=drawn.device, dtype=torch.float32) + 0.5
        y = (middle[:, None] * h / self.crop - 0.5).clamp(min=0).minimum(h - 1) + top
        x = (middle * w / self.crop - 0.5).clamp(min=0).minimum(w - 1) + left
        return sampled(turned, *torch.broadcast_tensors(y, x))


def reflected(at: Tensor, length: Tensor) -> Tensor:
    """Return positions brought into 0..length - 1 by reflection at the outermost pixels (101), however far away."""
    period = (2 * (length - 1)).clamp(min=1)
    inside = at.remainder(period)
    return inside.minimum(period - inside).minimum(length - 1)


def sampled(images_BYX: Tensor, y_BYX: Tensor, x_BYX: Tensor) -> Tensor:
    """Return the images at the given positions (pixels), interpolated bilinearly, to whole grey levels."""
    last = max(images_BYX.shape[-1] - 1, 1)
    grid = torch.stack((x_BYX, y_BYX), dim=-1) * (2 / last) - 1
    found = F.grid_sample(images_BYX[:, None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return found[:, 0].round_()


# Grey values


class BrightnessContrast:
    """Grey value v becomes v (1 + c) + 255 b, with b and c uniform in -0.3..0.3, at p 0.5."""

    numbers = 2

    def draw(self, rng: np.random.Generator) -> tuple[float, float]:
        """Return factor and summand."""
        if rng.random() >= 0.5:
            return 1.0, 0.0
        return 1 + rng.uniform(-0.3, 0.3), 255 * rng.uniform(-0.3, 0.3)

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        factor, summand = drawn[:, :, None, None].unbind(1)
        return truncated(images_BYX * factor + summand)


class Jitter:
    """Brightness and contrast multiplied by factors uniform in low..high, in random order (torchvision's jitter).

    The contrast is about the mean of the image as it is then.
    """

    numbers = 4

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Return, for the first and the second of both: the factor on grey values, and that on their mean."""
        brightness, contrast = rng.uniform(self.low, self.high, 2)
        both = [(brightness, 0.0), (contrast, 1 - contrast)]
        first = int(rng.random() < 0.5)
        return [*both[first], *both[1 - first]]

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        for factor, share in (drawn[:, :2, None, None].unbind(1), drawn[:, 2:, None, None].unbind(1)):
            images_BYX = truncated(images_BYX * factor + images_BYX.mean((1, 2), keepdim=True) * share)
        return images_BYX


class Noise:
    """Adds N(0, variance) to every pixel at p 0.5.

    Parameters
    ----------
    variance : callable
        Draws it, in squared grey levels.
    """

    numbers = 1

    def __init__(self, variance: Callable[[np.random.Generator], float]) -> None:
        self.variance = variance

    def draw(self, rng: np.random.Generator) -> tuple[float]:
        """Return the standard deviation."""
        return (math.sqrt(self.variance(rng)) if rng.random() < 0.5 else 0.0,)

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        generator = torch.Generator(images_BYX.device)
        noise = torch.empty_like(images_BYX)
        for one, seed in zip(noise, seeds, strict=True):
            one.normal_(generator=generator.manual_seed(seed))
        return truncated(images_BYX + noise * drawn[:, :, None])


def truncated(images: Tensor) -> Tensor:
    """Return grey values cut to 0..255 and to whole numbers, as albumentations 1.x does."""
    return images.clamp(0, 255).floor_()


class Blur:
    """Gaussian blur at p 0.5.

    Parameters
    ----------
    kernel : callable
        Draws the kernel along one axis, of odd length.
    edge : int
        The greatest length.
    """

    def __init__(self, kernel: Callable[[np.random.Generator], NDArray[np.float64]], edge: int) -> None:
        self.kernel, self.numbers = kernel, edge

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Return the kernel, filled up with zeros at both ends; a single 1 changes nothing."""
        kernel = self.kernel(rng) if rng.random() < 0.5 else np.ones(1)
        return np.pad(kernel, (self.numbers - len(kernel)) // 2).tolist()

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        reach, side = self.numbers // 2, images_BYX.shape[-1]
        wide = F.pad(images_BYX[:, None], (reach,) * 4, mode="reflect")[:, 0]
        weights = drawn[:, :, None, None].unbind(1)
        rows = sum(weight * wide[:, n : n + side] for n, weight in enumerate(weights))
        assert isinstance(rows, Tensor)
        both = sum(weight * rows[:, :, n : n + side] for n, weight in enumerate(weights))
        assert isinstance(both, Tensor)
        return both.round_()


def kernel_of_edge(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a kernel of one of the published edges, sigma following from it (protocol 4.1)."""
    return _kernel(augment.KERNELS[rng.integers(len(augment.KERNELS))], 0.0)


def kernel_of_sigma(low: float, high: float) -> Callable[[np.random.Generator], NDArray[np.float64]]:
    """Return what draws a kernel of sigma uniform in low..high pixels, its edge following from it as in OpenCV."""

    def draw(rng: np.random.Generator) -> NDArray[np.float64]:
        sigma = rng.uniform(low, high)
        return gaussian_kernel(edge_of(sigma), sigma)

    return draw


def edge_of(sigma: float) -> int:
    """Return the edge of the kernel that OpenCV gives bytes for a sigma."""
    return round(6 * sigma + 1) | 1


@cache
def _kernel(edge: int, sigma: float) -> NDArray[np.float64]:
    return gaussian_kernel(edge, sigma)


def gaussian_kernel(edge: int, sigma: float) -> NDArray[np.float64]:
    """Return OpenCV's kernel along one axis; with sigma 0 the one that goes with the edge."""
    import cv2

    return cv2.getGaussianKernel(edge, sigma)[:, 0]


class Holes:
    """Blackens 1 to `most` squares of `edge` pixels at p 0.5."""

    def __init__(self, most: int, edge: int, crop: int) -> None:
        self.most, self.edge, self.crop = most, edge, crop
        self.numbers = 2 * most

    def draw(self, rng: np.random.Generator) -> list[float]:
        """Return the tops, then the lefts; where there is no hole, one outside the image."""
        found = np.full((2, self.most), -self.edge)
        if rng.random() < 0.5:
            count = rng.integers(1, self.most + 1)
            found[:, :count] = rng.integers(self.crop - self.edge + 1, size=(2, count))
        return found.ravel().tolist()

    def __call__(self, images_BYX: Tensor, drawn: Tensor, seeds: Sequence[int]) -> Tensor:
        side = torch.arange(self.crop, device=drawn.device)
        start = drawn[:, :, None]
        rows, columns = ((start <= side) & (side < start + self.edge)).float().split(self.most, dim=1)
        return images_BYX * (rows.transpose(1, 2) @ columns == 0)
