"""What is true of the platform's things: their fields, states and lawful moves. Pure; no I/O, clock passed in."""
