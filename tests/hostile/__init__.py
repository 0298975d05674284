"""Files from strangers: payloads, archives and images that were made to do harm, and a fuzzer over every parser."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # what other tests make files with, also under python -m
