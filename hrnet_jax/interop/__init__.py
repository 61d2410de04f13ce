"""Other formats: published PyTorch weights in and out, without running their code."""
