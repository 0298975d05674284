"""RETINA: TransUNet, and other hybrids, that start from reconstruction pre-training (protocol 4.2, 4.5, 7.1)."""

from __future__ import annotations

from typing import ClassVar

from baselines.swin_unetr import SwinUNETRModel
from baselines.transunet import ImageNetStart, TransUNet768, TransUNetModel
from baselines.u_mamba import UMambaModel

_CITATION = """@article{retina2025,
  title = {RETINA: Reconstruction-based Pre-Trained Enhanced TransUNet for Electron Microscopy Segmentation on the
           CEM500K Dataset},
  journal = {PLoS Computational Biology}, volume = {21}, number = {5}, year = {2025},
  doi = {10.1371/journal.pcbi.1013115}, note = {Preprint: bioRxiv, doi 10.1101/2025.01.08.632030}
}"""
_ENCODER = "transformer."
_TRANSFORMER = "transformer.encoder."


class Retina(TransUNetModel):
    """The whole encoder is transferred and its transformer layers are frozen; all else is trained."""

    name = "retina"
    group = "published"
    title = "RETINA"
    citation = _CITATION
    pretraining = "retina"
    transferred: ClassVar[tuple[str, ...]] = (_ENCODER,)
    frozen = (_TRANSFORMER,)


class RetinaTransformerOnly(Retina):
    """The paper's wording: only the transformer layers are transferred (protocol 7.1)."""

    name = "retina-transformer-only"
    group = "start"
    title = "RETINA, transformer layers only"
    transferred = (_TRANSFORMER,)


class RetinaAllParameters(Retina):
    """All but the head is transferred, which the paper reports not to help (its section 4).

    It does not say what was frozen: here the transformer layers, as in RETINA.
    """

    name = "retina-all-parameters"
    group = "start"
    title = "RETINA, all parameters transferred"
    transferred = (_ENCODER, "decoder.")


class Retina768(Retina):
    """RETINA of the size of the published pre-training script (protocol 7.2)."""

    name = "retina-768"
    group = "start"
    title = "RETINA, hidden size 768"
    base = TransUNet768
    hidden = 768


class RetinaImageNetCEM(Retina768):
    """Reconstruction pre-training that itself starts from ImageNet weights (protocol 4.5)."""

    name = "retina-imagenet-cem"
    group = "start"
    title = "RETINA (ImageNet, then reconstruction)"
    base = ImageNetStart


class RetinaNoBrightnessContrast(Retina):
    """Pre-trained without changes of brightness and contrast."""

    name = "retina-no-brightness-contrast"
    group = "ablation"
    title = "RETINA, no brightness and contrast"
    pretraining = "retina-no-brightness-contrast"


class RetinaNoNoise(Retina):
    """Pre-trained without Gaussian noise."""

    name = "retina-no-noise"
    group = "ablation"
    title = "RETINA, no noise"
    pretraining = "retina-no-noise"


class RetinaNoBlur(Retina):
    """Pre-trained without blur."""

    name = "retina-no-blur"
    group = "ablation"
    title = "RETINA, no blur"
    pretraining = "retina-no-blur"


class RetinaNoHoles(Retina):
    """Pre-trained without holes."""

    name = "retina-no-holes"
    group = "ablation"
    title = "RETINA, no holes"
    pretraining = "retina-no-holes"


class RetinaSwinUNETR(SwinUNETRModel):
    """SwinUNETR by RETINA's rule: the encoder is transferred, its transformer layers are frozen, all else is trained.

    The encoder is the Swin transformer and the convolutions on each of its maps. The paper leaves this network for
    later work.
    """

    name = "retina-swin-unetr"
    group = "hybrid"
    title = "RETINA on SwinUNETR"
    pretraining = "retina"
    transferred = ("swinViT.", "encoder")
    frozen = ("swinViT.layers",)


class RetinaUMamba(UMambaModel):
    """U-Mamba by RETINA's rule: the encoder is transferred, its Mamba layers are frozen, all else is trained.

    The paper expects its pre-training to serve this network, and leaves it for later work.
    """

    name = "retina-u-mamba"
    group = "hybrid"
    title = "RETINA on U-Mamba"
    pretraining = "retina"
    transferred = ("encoder.",)
    frozen = ("encoder.mamba_layers.",)
