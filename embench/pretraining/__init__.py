"""Pre-training on unlabelled images: what a method is, the loop that runs it, and where its checkpoint stands."""
