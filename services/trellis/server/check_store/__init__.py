"""Whether the store has what the database names: `python -m trellis.server.check_store`."""
