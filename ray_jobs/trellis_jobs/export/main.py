"""The entrypoint of an export's process: `python -m trellis_jobs.export.main`.

TRELLIS_STORE_URL says where the object store is, TRELLIS_EXPORT_KEY under which key the task lies and the files go, and
TRELLIS_EXPORT_RUN which run of the export this is. The exit status is 0 when the manifest is there or nobody wants it
any more, and 1 otherwise; then error-{run}.json says why.
"""

import importlib.metadata
import logging
import os
import signal
import sys
import traceback
from types import FrameType

from trellis.exports import TASK_FILE, error_file
from trellis.objects import ObjectStore
from trellis_jobs.device import limit_threads
from trellis_jobs.export.folder import ExportFolder
from trellis_jobs.export.run import run
from trellis_jobs.export.stop import ExportUnwantedError, describe

_log = logging.getLogger(__name__)
_TERMINATED = 128 + signal.SIGTERM


def main() -> int:
    """Make one export; the process's exit status."""
    signal.signal(signal.SIGTERM, _stop)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    limit_threads()
    store = ObjectStore.open(os.environ["TRELLIS_STORE_URL"])
    key = os.environ["TRELLIS_EXPORT_KEY"]
    try:
        manifest = run(store, key, importlib.metadata.version("trellis"))
    except ExportUnwantedError:
        _log.info("The export was deleted.")
        ExportFolder(store, key).clear()
        return 0
    except Exception as error:  # noqa: BLE001  whatever it was, its user must hear of it
        traceback.print_exception(error, file=sys.stdout)
        _say_why(store, key, error)
        return 1
    _log.info("The export is there: %d files of %d bytes.", len(manifest.files), manifest.size_bytes)
    return 0


def _say_why(store: ObjectStore, key: str, error: Exception) -> None:
    if store.exists(f"{key}/{TASK_FILE}"):
        store.put_bytes(f"{key}/{error_file(int(os.environ['TRELLIS_EXPORT_RUN']))}", describe(error).to_json())


def _stop(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(_TERMINATED)  # so that half-written files are removed


if __name__ == "__main__":
    sys.exit(main())
