"""Results drawn from run folders: sets, tables, pictures."""
