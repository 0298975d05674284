"""Whether the statistics keep their promises on simulated scores of known truth."""
