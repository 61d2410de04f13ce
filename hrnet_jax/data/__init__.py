"""Datasets as numpy arrays: reading, checking, augmenting, batching."""
