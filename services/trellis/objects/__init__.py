"""The object store: a local folder or S3, by URL, through fsspec. Keys are made by us, never taken from a request."""

from trellis.objects.failures import ObjectNotFoundError, ObjectStoreUnavailableError
from trellis.objects.store import ObjectInfo, ObjectStore

__all__ = ["ObjectInfo", "ObjectNotFoundError", "ObjectStore", "ObjectStoreUnavailableError"]
