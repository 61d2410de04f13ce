"""One training step: loss, optimiser, state, metrics."""
