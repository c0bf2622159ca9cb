"""What every study shares: a run, the methods by name, the command line, sets, tables, plots."""
