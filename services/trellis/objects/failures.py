"""What the object store's errors mean: to callers in a sentence without particulars, to operators in the log."""

import contextlib
import logging
from collections.abc import Iterator

from trellis.errors import Reason, Unavailable

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 2.0
_FOREIGN = ("s3fs.", "fsspec.", "botocore.", "aiobotocore.", "aiohttp.", "urllib3.")
"""Packages whose errors are the store's, as those are that were made of theirs."""
_CREDENTIALS = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoCredentialsError",
    "PartialCredentialsError",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "403",
}


class ObjectNotFoundError(FileNotFoundError):
    """No object has this key."""


class ObjectStoreUnavailableError(Unavailable):
    """The store does not answer, answers with errors, or refuses us; it says nothing on whether an object is there."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.OBJECT_STORE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)


@contextlib.contextmanager
def translated(url: str, key: str) -> Iterator[None]:
    """Raise ObjectStoreUnavailableError for what the store is to blame for, and leave other errors as they are.

    FileNotFoundError is left too where it means the object; it does not where there is no bucket.
    """
    try:
        yield
    except Exception as error:
        code = _code(error)
        if code is None or (isinstance(error, FileNotFoundError) and code != "NoSuchBucket"):
            raise
        for_callers, for_operators = _sentences(code)
        _log.error("The object store at %s failed for %r: %s (%s: %s)", url, key, for_operators, code, error)
        raise ObjectStoreUnavailableError(for_callers) from error


def _code(error: BaseException) -> str | None:
    """How S3 or its client calls the error; None if it is nobody's of both."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    for one in (error, error.__cause__):
        if one is not None and type(one).__module__.startswith(_FOREIGN):
            return type(one).__name__
    return type(error).__name__ if isinstance(error, (TimeoutError, ConnectionError)) else None


def _sentences(code: str) -> tuple[str, str]:
    if code in _CREDENTIALS:
        return (
            "The object store refuses the platform; its operator finds in the log what to do.",
            (
                "it refuses our credentials; look at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role, and at what "
                "they may do with the bucket (s3:GetObject, PutObject, DeleteObject, ListBucket, "
                "ListBucketMultipartUploads, AbortMultipartUpload)"
            ),
        )
    if code == "NoSuchBucket":
        return (
            "The object store is not set up; the platform's operator finds in the log what to do.",
            "there is no such bucket; make it, or correct TRELLIS_STORE_URL or AWS_ENDPOINT_URL",
        )
    return (
        "The object store is busy or can't be reached. Try again.",
        "it is busy or can't be reached; if this goes on, look at it, and at AWS_ENDPOINT_URL",
    )
