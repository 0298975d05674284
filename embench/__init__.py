"""embench: a benchmark of segmentation models on electron-microscopy images."""

__version__ = "0.1.0"
