"""`python -m trellis.server.check_store`: says which objects the database names and the store does not have.

It reads TRELLIS_DATABASE_URL and TRELLIS_STORE_URL and changes nothing. Its statuses: 0 all are there, 1 it could not look,
2 wrong arguments, 3 some are missing or wrong.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from trellis.errors import TrellisError
from trellis.objects import ObjectStore
from trellis.server.app.store_check import check_store
from trellis.server.store.engine import create_engine_for
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

_FAULTY = 3


def main(words: Sequence[str]) -> int:
    """Look; the process's exit status."""
    parser = argparse.ArgumentParser("python -m trellis.server.check_store", description=__doc__)
    parser.add_argument("--digests", action="store_true", help="read all objects, and compare their sha256")
    arguments = parser.parse_args(words)
    urls = [os.environ.get(name, "").strip() for name in ("TRELLIS_DATABASE_URL", "TRELLIS_STORE_URL")]
    if not all(urls):
        return _say("TRELLIS_DATABASE_URL and TRELLIS_STORE_URL must be set.", 2)
    try:
        return asyncio.run(_check(*urls, digests=arguments.digests))
    except (TrellisError, SQLAlchemyError, OSError, ValueError) as error:
        return _say(f"Could not look: {error}", 1)


async def _check(database_url: str, store_url: str, *, digests: bool) -> int:
    engine = create_engine_for(database_url)
    count = faults = 0
    try:
        async for fault in check_store(SqlUnitOfWorkFactory(engine), ObjectStore.open(store_url), digests=digests):
            count += 1
            if fault is not None:
                faults += 1
                _say(f"{fault.named.resource}: {fault.named.key} {fault.why}.", 0)
    finally:
        await engine.dispose()
    _say(f"{count} objects are named; {faults} of them are missing or wrong.", 0)
    return _FAULTY if faults else 0


def _say(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr if status else sys.stdout, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
