"""Reading an order, said in a café, as JSON."""

import json
from random import Random

from trellis.demo.tasks import Example, Task

_DRINKS = ("latte", "cappuccino", "espresso", "mocha", "americano", "chai")
_SIZES = ("small", "medium", "large")
_MILKS = ("oat", "soy", "almond", "whole")
_COUNTS = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4}
_OPENINGS = (
    "I'd like",
    "Can I get",
    "Could I have",
    "I'll take",
    "Give me",
    "May I order",
    "Hi, I want",
    "Good morning,",
)
_TO_GO = (" to go", " to take away", ", to go please")
_HERE = (" for here", ", I'll drink it here", " to have here")


def _make(rng: Random) -> Example:
    word = rng.choice(tuple(_COUNTS))
    count, size, drink = _COUNTS[word], rng.choice(_SIZES), rng.choice(_DRINKS)
    milk = rng.choice((*_MILKS, None))
    to_go = rng.random() < 0.5
    plural = "" if count == 1 else "s"
    parts = [rng.choice(_OPENINGS), " ", word, " ", size, " ", drink, plural]
    parts.append(f" with {milk} milk" if milk else "")
    parts.append(rng.choice(_TO_GO if to_go else _HERE))
    parts.append(rng.choice((".", ".", ", thanks.", "!")))
    order = {"count": count, "size": size, "drink": drink, "milk": milk, "to_go": to_go}
    return Example("".join(parts), json.dumps(order))


ORDERS = Task("globex", "cafe-orders", "read café orders as JSON", _make)
