"""The command line of `python -m trellis.base_cache`."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from trellis.base_cache.cache import VARIABLE
from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.fetch import Fetched, FetchOptions, fetch, repair, verify
from trellis.base_cache.progress import as_json, as_lines

DONE: Final = 0
WRONG: Final = 2
TEMPORARY: Final = 75
"""EX_TEMPFAIL of sysexits.h."""
STOPPED: Final = 143
_DESCRIPTION: Final = """Fetch a base model into a cache, once, with each file held against its hash.

HF_TOKEN opens gated models of the hub, AWS_… variables a bucket. What has come is kept when the fetch is cut, and the
next one goes on there. Progress goes to stderr, the result to stdout."""
_EPILOG: Final = (
    "exit codes: 0 it is in the cache; 2 what was asked for can't be had; 75 it may be had later: try again"
)


def main(arguments: Sequence[str]) -> int:
    """Fetch, and say how it went; the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        fetched = _run(options)
    except BaseCacheError as error:
        passing = isinstance(error, PassingError)
        _say_failure(str(error), passing, options.format == "json")
        return TEMPORARY if passing else WRONG
    except OSError as error:
        _say_failure(f"The cache can't be read or written ({error}).", True, options.format == "json")
        return TEMPORARY
    except KeyboardInterrupt:
        os._exit(STOPPED)  # threads may wait for bytes; what they wrote is sound, and the lease is given back
    _say_result(fetched, options.format == "json")
    return DONE


def _run(options: argparse.Namespace) -> Fetched:
    cache = Path(options.cache or os.environ.get(VARIABLE, "").strip()).expanduser()
    if not options.cache and not os.environ.get(VARIABLE, "").strip():
        raise BaseCacheError(f"Say where the cache is, with --cache or {VARIABLE}.")
    progress = as_json() if options.format == "json" else as_lines()
    how = FetchOptions(
        offline=options.offline,
        workers=options.workers,
        lease_seconds=options.lease_seconds,
        poll_seconds=min(2.0, options.lease_seconds / 10),
    )
    fetched = fetch(options.source, options.revision, cache, progress, how)
    if not (options.verify and fetched.was_present):
        return fetched
    damages = verify(options.source, fetched.revision, cache)
    if not damages:
        return fetched
    for damage in damages:
        print(damage, file=sys.stderr)  # noqa: T201  a command line speaks
    repair(options.source, fetched.revision, cache)
    return fetch(options.source, fetched.revision, cache, progress, how)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m trellis.base_cache",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a hub id such as ORG/MODEL, s3://bucket/prefix, or a folder")
    parser.add_argument("--revision", default="", help="a commit, tag or branch of the hub, or the digest sha256:…")
    parser.add_argument("--cache", default="", help=f"the cache's folder  [default: {VARIABLE}]")
    parser.add_argument("--offline", action="store_true", help="ask nobody: fail unless it is in the cache")
    parser.add_argument("--verify", action="store_true", help="hash all of it, and fetch again what is damaged")
    parser.add_argument("--format", choices=("lines", "json"), default="lines", help="how to say the progress")
    parser.add_argument("--workers", type=_positive, default=4, help="files that are fetched at once  [default: 4]")
    parser.add_argument(
        "--lease-seconds",
        type=_seconds,
        default=60.0,
        help="without a sign of life for so long, another fetch is taken over  [default: 60]",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 on, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"it must be a number of seconds above 0, not {text!r}")
    return seconds


def _say_result(fetched: Fetched, as_objects: bool) -> None:
    result = {
        "path": str(fetched.path),
        "revision": fetched.revision,
        "digest": fetched.digest,
        "bytes": fetched.bytes,
        "was_present": fetched.was_present,
    }
    print(json.dumps(result) if as_objects else fetched.path)  # noqa: T201  a command line speaks


def _say_failure(sentence: str, passing: bool, as_objects: bool) -> None:
    said = json.dumps({"event": "failed", "message": sentence, "temporary": passing}) if as_objects else sentence
    print(said, file=sys.stderr)  # noqa: T201  a command line speaks


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
