"""Which threads of a process compute with helpers of their own.

OpenMP gives every thread that computes in parallel a team of its own. As soon as all teams together have more threads than
the machine has CPUs, GNU's OpenMP lets all of them sleep at once when they wait, and a step of hundreds of short parallel
pieces waits for its helpers to wake: 60 ms instead of 38 for a 135 M model on two CPUs. So only the engine's own thread may
have a team.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def compute_alone() -> None:
    """Let the calling thread compute without helpers from now on; for threads that load and lay out, beside an engine."""
    torch.get_num_threads()  # PyTorch sets the count at a thread's first question, and would do so after us
    with suppress(OSError, AttributeError):  # another OpenMP does not count threads in this way
        ctypes.CDLL("libgomp.so.1").omp_set_num_threads(1)


def in_passing(work: Callable[[], _Result]) -> _Result:
    """What `work` returns, done in a thread that ends with it, and its team of helpers too."""
    with ThreadPoolExecutor(1, thread_name_prefix="in-passing") as thread:
        return thread.submit(work).result()
