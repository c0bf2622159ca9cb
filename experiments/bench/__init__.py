"""Benchmarks: the measured costs of the library."""
