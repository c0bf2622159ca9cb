"""Flax models; each says in one place which parameters are weights (w), which are λ."""
