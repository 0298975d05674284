"""RETINA: reconstruction pre-training of a transformer-based segmentation network (protocol 4.3)."""
