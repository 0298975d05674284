"""What an image is and where it lies: readers, conversion, the prepared format, download, duplicates.

One's own data belong here; published data sets are in :mod:`embench.datasets`.
"""
