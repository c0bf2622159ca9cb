"""The closeness of hypergradients to the exact one: Section 5.1 of Lee et al. 2022."""
