"""What every study shares: the run loop, its folder, the methods by name, statistics."""
