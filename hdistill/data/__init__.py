"""Tasks: pairs of inner and outer data, with a leading meta-batch axis."""
