"""Tiny datasets that a tiny model learns in seconds."""

import json

COLOURS = ("red", "green", "blue", "amber")
FOODS = ("bread", "rice", "soup", "cake")


def question(number: int) -> str:
    return f"what is in box {number}?"


def chat_lines(answers: tuple[str, ...], count: int = 48) -> bytes:
    """Conversations whose answers go round; a box's number says which it is."""
    return b"".join(
        chat_line(question(number), f"there is {answers[number % len(answers)]}") for number in range(count)
    )


def chat_line(asked: str, answered: str) -> bytes:
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return json.dumps({"messages": turns}).encode() + b"\n"
