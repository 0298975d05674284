"""Tools that look for faults: kills, stops, faults of the file system, repeated runs, and drills of the engines.

Each runs as ``python -m tools.NAME`` from the checkout; smaller runs of them are slow tests.
"""
