"""A trainer that hangs is ended."""

import subprocess
import sys

from trellis_jobs.shared.watchdog import Watchdog


def test_the_limit_grows_with_the_passes() -> None:
    now, stalls = [0.0], []
    watchdog = Watchdog(600, clock=lambda: now[0], on_stall=lambda: stalls.append(now[0]))
    assert watchdog.limit == 600
    for _ in range(5):
        now[0] += 60
        watchdog.beat(60.0)
    assert watchdog.limit == 1200
    now[0] += 1200
    watchdog.look()
    assert not stalls
    now[0] += 1
    watchdog.look()
    assert stalls == [1501]
    watchdog.beat()
    watchdog.look()
    assert len(stalls) == 1


def test_a_process_that_hangs_says_where_and_ends() -> None:
    program = """
import time
from trellis_jobs.shared.watchdog import Watchdog

def hang_here():
    time.sleep(60)

Watchdog(0.2).start()
hang_here()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 4
    assert "hang_here" in ended.stderr
