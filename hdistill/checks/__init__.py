"""Bad input, caught before compilation: an error or a warning that names it."""
