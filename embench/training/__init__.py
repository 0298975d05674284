"""How a network is trained and applied: recipe, losses, optimisers, augmentation, the loop, inference.

Networks and adapters are elsewhere: :mod:`embench.models` says what an adapter is.
"""
