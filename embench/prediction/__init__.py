"""From trained weights to a segmented volume: what is read, predicted piece by piece, and written.

Here is everything that applies a trained model to images without truth, and what is made of its output: label volumes,
probabilities, maps of doubt, objects. How one section is predicted is in :mod:`embench.training`, what files look like
in :mod:`embench.data`.
"""
