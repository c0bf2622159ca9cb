"""Standard learning: Appendix H of Lee et al. 2022."""
