"""The published and the synthetic data sets, one file each: facts, sources, and what reads the files."""
