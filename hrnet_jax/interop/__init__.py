"""Read and write PyTorch weights, without running code from the files."""
