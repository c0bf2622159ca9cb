"""Few-shot sinusoid regression: Appendix G of Lee et al. 2022."""
