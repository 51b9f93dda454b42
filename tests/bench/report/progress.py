"""What a benchmark says while it runs."""

import sys
import time


def say(line: str) -> None:
    """With the time, beside the table that is printed at the end."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
