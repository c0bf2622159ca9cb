"""The studies of the paper, one module each: `python -m experiments.NAME --help`."""
