"""Files of a run (paths, checkpoints, metrics), its terminal output and its signals."""
