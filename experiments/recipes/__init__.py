"""Hypergradients in your own code: each recipe runs by itself in seconds, on data it makes."""
