"""Segmentation heads on top of the backbone."""
