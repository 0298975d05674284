"""What ``embench weights`` does and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from embench.core.errors import BadInput


def inspect(file: Path, strip_prefix: str = "") -> None:
    """Print what a checkpoint is."""
    from baselines import published_weights
    from embench.models.checkpoints import load_weights

    if file.suffix == ".safetensors":
        ours = load_weights(file)
        print(f"{file}: ours, {len(ours.tensors)} tensors\nsha256: {ours.hash}")
        for key, value in ours.card.model_dump(mode="json", exclude={"loss_curve"}).items():
            print(f"{key}: {value}")
        return
    found = published_weights.inspect(file, strip_prefix)
    numbers = sum(tensor.numel() for tensor in found.tensors.values())
    print(f"{file}: {found.description}, {len(found.tensors)} tensors, {numbers:,} numbers\nsha256: {found.sha256}")
    print(f"norms: {'{} {}'.format(*found.norms) if found.norms else 'not in the file'}")
    for words, names in found.left_out.items():
        print(f"not taken over: {words} ({len(names)}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''})")
    if found.kind.method:
        print(f"next: embench checkpoint import {file}{'' if found.kind.data != 'unknown' else ' --data NAME'}")


def import_(
    file: Path,
    data_name: str | None,
    out: Path | None,
    norms: str | None,
    data: Path | None,
    force: bool,
    model: str | None = None,
    key_map: Sequence[str] = (),
    strip_prefix: str = "",
) -> None:
    """Write a published checkpoint as one of ours and print where it is."""
    from baselines import published_weights

    try:
        pair = None if norms is None else tuple(float(part) for part in norms.split(","))
    except ValueError:
        raise BadInput(f"--norms {norms}: give MEAN,STD of 0..1 grey values, as in 0.57,0.13") from None
    if pair is not None and len(pair) != 2:
        raise BadInput(f"--norms {norms}: give MEAN,STD of 0..1 grey values, as in 0.57,0.13")
    if model and ":" in model:
        from baselines.encoder_weights import import_encoder

        where = {"norms": pair, "out": out, "folder": data, "force": force}
        made = import_encoder(file, model, data_name or "unknown", prefixes=key_map, **where)  # type: ignore[arg-type]
        print(f"checkpoint: {made}    next: embench run --model {model}")
        return
    if key_map:
        raise BadInput("--key-map: for the encoder of a model; give --model vit:NAME:START or smp:ARCH:ENCODER:START")
    made = published_weights.import_published(
        file, data_name, out=out, norms=pair, folder=data, force=force, strip_prefix=strip_prefix, model=model
    )
    print(f"checkpoint: {made}    next: embench run --init-from {made} --model ...")


def fetch(name: str, data: Path | None) -> None:
    """Download a published checkpoint and print where it is."""
    if ":" in name:
        from baselines.encoder_weights import fetch_encoder

        print(f"checkpoint: {fetch_encoder(name, folder=data)}    next: embench run --model {name}")
        return
    from baselines import published_weights

    found = published_weights.fetch_published(name, data)
    state = "fetched" if found.fresh else "already here"
    print(f"{found.path}: {state}, sha256 {found.sha256} ({'verified' if found.verified else 'unverified'})")
    print(f"next: embench checkpoint import {found.path} --data NAME")
