"""From a network and images to label maps, scores and a report."""
