"""What a run leaves and reads: paths, checkpoints, metrics, signals."""
