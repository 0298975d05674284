"""What a user says about their own images, each option once."""

from dataclasses import dataclass
from pathlib import Path

from embench.core.options import option

_OWN = "Your own images"


@dataclass(frozen=True)
class OwnData:
    """What the user says about the files. Every field is an option of ``embench prepare NAME``, with its help.

    ``images``, ``masks``: a folder or one file each. Files are paired by name; one image and one mask need not be.
    ``source`` instead of both: a folder with ``train``, ``test`` and perhaps ``valid`` (or ``val``), each with
    ``images`` and ``masks``. ``split``: for sections of a volume the .csv file also has ``first,last`` (from 0,
    inclusive). ``scoring``: for stack and orthoplane, single pictures are the sections of one volume, in order of
    their names. ``threshold``: for masks that were resampled or compressed with loss.
    """

    name: str = ""
    classes: str = option("", "Values in the masks and their names, background first: 0:background,1:er.", panel=_OWN)
    images: Path | None = option(None, "Folder or file of images.", panel=_OWN)
    masks: Path | None = option(None, "Folder or file of masks.", panel=_OWN)
    source: Path | None = None
    split: str = option(
        "last-20%",
        "last-20% (of files or sections) for testing, or a .csv file: name,split[,first,last].",
        panel=_OWN,
    )
    scoring: str = option("2d", "2d, stack or orthoplane.", panel=_OWN)
    voxel_size: str | None = option(None, "Nanometres z,y,x, as in 16,8,8.", panel=_OWN)
    pair: str = option("name", "How masks find their images: name or number.", panel=_OWN)
    mask_suffix: str | None = option(
        None, "What a mask's name has behind its image's, as in _mask; one folder may hold both.", panel=_OWN
    )
    threshold: float | None = option(
        None, "With two classes: mask values above it are the second; recorded.", panel=_OWN
    )
    allow_duplicates: bool = option(
        False, "Take test images that are in the training split too.", "--allow-duplicates", panel=_OWN
    )
    grey_range: str | None = option(None, "LOW,HIGH or auto, for images that are not 8-bit.", panel=_OWN)
