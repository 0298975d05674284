"""A model of a few hundred parameters with everything that could break a resume: batch norm, dropout, moments."""

from torch import nn

from embench.models.base import TorchModel


class Small(TorchModel):
    """Trained in milliseconds a step."""

    def network(self, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Conv2d(8, outputs, 3, padding=1),
        )
