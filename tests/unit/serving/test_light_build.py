"""Ray Serve builds an application in a process that computes nothing, whenever a base or a setting is new."""

import subprocess
import sys

# As Serve's own task does it: the application, and the class of replicas as the others get it.
PROBE = """
import sys
from ray import cloudpickle
from trellis.serving.app import EngineReplica, build
words = ("base_model", "source", "revision", "tokenizer_digest", "store_url", "secret_sha256")
application = build(dict.fromkeys(words, "baseModels/tiny"))
assert cloudpickle.loads(cloudpickle.dumps(EngineReplica)) is EngineReplica
print(*({"torch", "transformers", "trellis.engine"} & sys.modules.keys()))
"""


def test_a_build_imports_no_engine() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == []
