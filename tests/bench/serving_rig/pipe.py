"""How a system in a process of its own is asked: a line of JSON in, a line of JSON out. Standard library only."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def claim_answers() -> int:
    """The descriptor for answers; what anybody prints from now on goes to stderr."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def serve(answers: int, hello: dict[str, Any], handlers: dict[str, Handler]) -> None:
    """Say hello, then answer lines of `{"do": …}` until there are no more; between them nothing here runs."""
    _say(answers, hello)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            _say(answers, handlers[asked.pop("do")](asked))
        except Exception as error:
            _say(answers, {"error": f"{type(error).__name__}: {error}"})
            raise


def _say(answers: int, values: dict[str, Any]) -> None:
    left = (json.dumps(values) + "\n").encode()
    while left:
        left = left[os.write(answers, left) :]
