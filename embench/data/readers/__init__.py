"""One file for each image format: sections on demand, and a refusal of what cannot be read without loss."""
