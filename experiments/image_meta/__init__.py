"""Image meta-learning: Section 5 of Lee et al. 2022."""
