"""Hypergradients in code of one's own: each recipe runs by itself in seconds, on data it makes."""
