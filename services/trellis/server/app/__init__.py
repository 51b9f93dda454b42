"""The use cases: one function each, `(command, unit of work) -> result`, and the ports through which they reach out."""
