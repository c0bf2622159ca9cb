"""The pages that answer what holds, drawn again from the results."""
