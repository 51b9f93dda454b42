"""The checks: each module has some, which say what they try and what must hold."""
