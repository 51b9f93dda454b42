"""Replays a queue, recorded or made up, through the scheduler's own decisions, and reports how it went."""
