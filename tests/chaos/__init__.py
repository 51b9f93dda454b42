"""A whole installation whose parts are killed in random order under load, and what must be true of it afterwards."""
