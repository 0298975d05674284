"""What a model adapter is, how it is found by name, and the checkpoints it is initialised from.

Adapters themselves are in `baselines`, `retina` and users' packages.
"""
