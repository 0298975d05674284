"""U-Mamba, a further hybrid that the paper names (protocol 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embench.models.base import TorchModel

if TYPE_CHECKING:
    from torch import nn

_CITATION = """@article{ma2024umamba,
  title = {U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation},
  author = {Ma, Jun and Li, Feifei and Wang, Bo}, journal = {arXiv:2401.04722}, year = {2024}
}"""


class UMambaModel(TorchModel):
    """U-Mamba_Enc in two dimensions, all random, all trained.

    The published program takes Mamba from the package ``mamba-ssm``, which needs CUDA to be installed and to run; here
    it is written in plain torch, with the same parameters. It runs under TransUNet's recipe, so that the network is
    all that differs; no source gives another for the benchmarks here.
    """

    name = "u-mamba"
    group = "hybrid"
    title = "U-Mamba (random)"
    family = "mamba"
    licence = "Apache-2.0"
    citation = _CITATION
    recipe = "retina"
    multiple = 1

    def network(self, outputs: int) -> nn.Module:
        from baselines.u_mamba_network import UMamba

        if self.scale == "full":
            return UMamba(outputs)
        return UMamba(outputs, features=(8, 16, 24, 32), states=4)
