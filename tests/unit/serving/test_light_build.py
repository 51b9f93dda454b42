"""Ray Serve builds an application in a process that computes nothing, whenever a base or a setting is new."""

import subprocess
import sys

# As Serve's own task does it: the application, and the class of replicas as the others get it.
BUILD = """
import sys
from ray import cloudpickle
from trellis.serving.app import EngineReplica, build
words = ("base_model", "source", "revision", "tokenizer_digest", "store_url", "secret_sha256")
application = build(dict.fromkeys(words, "baseModels/tiny"))
assert cloudpickle.loads(cloudpickle.dumps(EngineReplica)) is EngineReplica
"""
START = """
import sys
from trellis.bases import BaseModelError
from trellis.serving.app import EngineReplica
from trellis.serving.config import EngineConfig
try:
    EngineReplica(EngineConfig("baseModels/tiny", "/no/such/folder", "1", "2", "3", "4"))
except BaseModelError as error:
    assert "/no/such/folder" in str(error)
else:
    raise AssertionError("it started")
"""
IMPORTED = 'print(*({"torch", "transformers", "trellis.engine"} & sys.modules.keys()))'


def imported(code: str) -> list[str]:
    """What of the engine is imported when this has run."""
    done = subprocess.run(
        [sys.executable, "-c", code + IMPORTED], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_build_imports_no_engine() -> None:
    assert imported(BUILD) == []


def test_a_replica_whose_base_is_not_there_says_so_before_it_imports_the_engine() -> None:
    """Serve tries it four times, each time in a new process."""
    assert imported(START) == []
