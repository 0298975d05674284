"""Readers: an image file of any supported format as a stored volume (Z, Y, X), read a few sections at a time.

One module per format, each with one :class:`~embench.data.readers.base.Format`; :mod:`embench.data.readers.open`
lists them. What belongs elsewhere: grey and label values made of a volume (:mod:`embench.data.convert`), files found
and paired (:mod:`embench.data.listing`).
"""
