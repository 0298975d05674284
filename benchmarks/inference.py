"""How long predicting a section takes on the CPU: TransUNet-192, sliding window of 224 pixels, overlap 0.5.

    python benchmarks/inference.py --image SECTION.tif --mask MASK.png    # trained on its upper half for a while
    python benchmarks/inference.py                                        # on a generated section
    OMP_NUM_THREADS=1 python benchmarks/inference.py --processor-time     # on a machine that does other things too

The reference is MONAI's `sliding_window_inference` on the plain network (plain_transunet.py) in fp32, four windows at a
time. Ours is `embench.training.inference.predict_section` on what `embench.training.precision.deployed` makes of the
network, in fp32 and, where the processor has the instructions, in bf16. Both have the same weights, trained here for
some iterations so that scores are near neither one half nor chance; each has a process of its own, since a trial has
its process keep freed memory. What is compared is the labels: the fraction of pixels that differ.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from alternating import alternate_apart
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from plain_transunet import VisionTransformer
from torch import nn

from baselines.transunet_network import TransUNet
from embench.core.runtime import freed_memory_kept
from embench.training.augment import TrainingAugmentation
from embench.training.inference import labels_2d, predict_section
from embench.training.losses import loss_of
from embench.training.precision import Precision, autocast, deployed, has_bf16, place
from embench.training.recipe import RETINA
from embench.training.trainer import normalised

CPU = torch.device("cpu")
GOALS = {"fp32": 1.4, "bf16": 2.4}
Image = NDArray[np.uint8]


def generated(side: int) -> tuple[Image, Image]:
    """Return a section of blobs in noise, and their mask."""
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 12)
    mask = smooth > 1.2 * smooth.std()
    grey = 150 - 60 * mask + cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 1.5) * 60
    return np.clip(grey, 0, 255).astype(np.uint8), mask.astype(np.uint8)


def trained(image: Image, mask: Image, norms: tuple[float, float], iterations: int) -> nn.Module:
    """Return the network, trained by its recipe's loss on crops of 96 pixels."""
    torch.manual_seed(0)
    network = place(TransUNet(1), CPU).train()
    stepper = torch.optim.SGD(network.parameters(), 0.01, momentum=RETINA.momentum, weight_decay=RETINA.weight_decay)
    augment = TrainingAugmentation(96, crop_nonempty=True)
    for iteration in range(iterations):
        pairs = [augment(image, mask, np.random.default_rng([iteration, number])) for number in range(4)]
        images, labels = (torch.from_numpy(np.stack(each)) for each in zip(*pairs, strict=True))
        loss = loss_of(RETINA.loss)(network(normalised(images, norms, CPU)), labels.long())
        loss.backward()
        stepper.step()
        stepper.zero_grad()
    return network


Parameters = dict[str, NDArray[np.float32]]
Predict = Callable[[], NDArray[np.float32]]


def loaded(make: Callable[[], nn.Module], parameters: Parameters) -> nn.Module:
    """Return a network with the trained parameters."""
    network = make()
    network.load_state_dict({name: torch.from_numpy(values) for name, values in parameters.items()})
    return network


@contextmanager
def published(parameters: Parameters, image: Image, norms: tuple[float, float]) -> Iterator[Predict]:
    """Prepare the call of MONAI on the plain network, in a process as Python starts it."""
    plain = loaded(lambda: VisionTransformer(1), parameters).eval()

    def predict() -> NDArray[np.float32]:
        with torch.inference_mode():
            grey = (torch.tensor(image)[None, None].float() / 255 - norms[0]) / norms[1]
            logits = sliding_window_inference(grey, (224, 224), 4, plain, overlap=0.5, mode="constant")
            return logits.sigmoid()[0].numpy()

    yield predict


@contextmanager
def ours(parameters: Parameters, image: Image, norms: tuple[float, float], precision: Precision) -> Iterator[Predict]:
    """Prepare what a trial does with a section, in a process as a trial has it; the network is folded once, before."""
    fixed = deployed(place(loaded(lambda: TransUNet(1), parameters), CPU))

    def predict() -> NDArray[np.float32]:
        with autocast(precision, CPU):
            return predict_section(fixed, image, inference=RETINA.inference, norms=norms, device=CPU, volume=False)

    with freed_memory_kept(CPU):
        yield predict


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a grey 8-bit section (default: a generated one)")
    parser.add_argument("--mask", type=Path, help="where it is foreground")
    parser.add_argument("--side", type=int, default=512, help="of the section, or cut from it")
    parser.add_argument("--iterations", type=int, default=20, help="of training before")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="not of the clock; for one thread")
    fast: list[Precision] = ["fp32", "bf16"] if has_bf16(CPU) else ["fp32"]
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="+", default=fast)
    options = parser.parse_args(arguments)
    if (options.image is None) != (options.mask is None):
        parser.error("give both --image and --mask, or neither")
    if options.image:
        image, mask = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in (options.image, options.mask))
        if image is None or mask is None:
            parser.error(f"{options.image if image is None else options.mask}: no picture that OpenCV reads")
        mask = (mask > 127).astype(np.uint8)
    else:
        image, mask = generated(options.side)
    image, mask = image[: options.side, : options.side], mask[: options.side, : options.side]
    norms = float(image.mean() / 255), float(image.std() / 255)
    if not has_bf16(CPU):
        print("no bf16 instructions here, so bf16 is not measured; with --precision bf16 it is, emulated", flush=True)
    network = trained(image[: len(image) // 2], mask[: len(image) // 2], norms, options.iterations)
    given = {name: values.numpy() for name, values in network.state_dict().items()}, image, norms
    with published(*given) as predict:
        expected = labels_2d(predict())
    overlap = (expected & mask).sum() / (expected | mask).sum()
    print(f"{image.shape[0]}x{image.shape[1]}, {options.iterations} iterations: IoU {overlap:.3f}", flush=True)
    clock = time.process_time if options.processor_time else time.perf_counter
    for precision in options.precision:
        with ours(*given, precision) as predict:
            changed = (labels_2d(predict()) != expected).mean()
        found = alternate_apart(partial(published, *given), partial(ours, *given, precision), options.pairs, clock)
        print(found.line(f"inference, {precision}", f"changed pixels {changed:.4%}", GOALS[precision]), flush=True)


if __name__ == "__main__":
    main()
