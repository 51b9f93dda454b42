"""The driver, its mailbox and Ray Train's controller never compute: they start at once, without torch."""

import subprocess
import sys

import pytest

# The last two are what the mailbox and the controller read to hand a run's objects on.
MODULES = ("main", "mailbox", "order, trellis_jobs.distributed.process_group")
HEAVY = ("torch", "transformers", "peft", "deepspeed", "accelerate")
PROBE = "import sys, trellis_jobs.distributed.{module}; print(*({heavy} & sys.modules.keys()))"


@pytest.mark.parametrize("module", MODULES)
def test_what_only_hands_on_imports_nothing_that_computes(module: str) -> None:
    probe = PROBE.format(module=module, heavy=set(HEAVY))
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == []
