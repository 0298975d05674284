"""Statistics and the static site, made from result files and from nothing else."""
