"""moto's S3 server, which lists uploads in parts as S3 does: each with the time when it was begun, and in pages.

moto itself names a day of 2010 for each, and lists all at once. `python -m tests.moto_uploads …` takes moto's own arguments.
"""

from datetime import UTC, datetime
from typing import Any, Final

from moto import server
from moto.core.responses import ActionResult
from moto.s3.models import FakeMultipart
from moto.s3.responses import S3Response

PAGE: Final = {"uploads": 1000}
"""How many it lists at once; S3's own number."""


def list_as_s3_does() -> None:
    """From now on moto does, in this process. May be called twice."""
    if S3Response.list_multipart_uploads is _listed:
        return
    begin = FakeMultipart.__init__

    def begun(self: Any, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        self.begun = datetime.now(UTC)

    FakeMultipart.__init__ = begun  # type: ignore[method-assign]
    S3Response.list_multipart_uploads = _listed  # type: ignore[method-assign]


def _listed(self: Any) -> Any:
    asked = {name: values[0] for name, values in self.querystring.items()}
    after = (asked.get("key-marker", ""), asked.get("upload-id-marker", ""))
    there = self.backend.list_multipart_uploads(self.bucket_name).values()
    found = sorted((one for one in there if one.key_name.startswith(asked.get("prefix", ""))), key=_place)
    rest = [one for one in found if _place(one) > after]
    page, is_truncated = rest[: PAGE["uploads"]], len(rest) > PAGE["uploads"]
    self.data["Action"] = "ListMultipartUploads"
    result = {
        "Bucket": self.bucket_name,
        "MaxUploads": PAGE["uploads"],
        "IsTruncated": is_truncated,
        "Uploads": [{"Key": one.key_name, "UploadId": one.id, "Initiated": one.begun} for one in page],
    }
    if is_truncated:
        result |= {"NextKeyMarker": page[-1].key_name, "NextUploadIdMarker": page[-1].id}
    return self.serialized(ActionResult(result))


def _place(upload: Any) -> tuple[str, str]:
    return upload.key_name, upload.id


if __name__ == "__main__":
    list_as_s3_does()
    server.main()
