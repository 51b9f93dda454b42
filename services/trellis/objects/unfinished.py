"""What writers that died have left of objects that never appeared: parts of uploads to S3, scratch files in a folder."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import fsspec

_SCRATCH: Final = re.compile(r"\..+\.[0-9a-f]{32}")


def scratch_name(name: str, unique: str) -> str:
    """What the file is called that becomes the object of this name when it has all its bytes; `unique` is 32 hex digits."""
    return f".{name}.{unique}"


def discard_scratch(folder: Path, begun_before: datetime) -> int:
    """Delete the scratch files below the folder that nobody has written to since then; how many there were."""
    found = [path for path in folder.rglob(".*") if _SCRATCH.fullmatch(path.name) and path.is_file()]
    old = [path for path in found if _write_time(path) < begun_before]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)


def _write_time(path: Path) -> datetime:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except FileNotFoundError:  # it has just become an object
        return datetime.max.replace(tzinfo=UTC)


def discard_parts(filesystem: fsspec.AbstractFileSystem, folder: str, begun_before: datetime) -> int:
    """Abort the uploads in parts to keys below the folder that S3 says were begun before then; how many there were."""
    bucket, prefix, _ = filesystem.split_path(folder)
    old = [upload for upload in _uploads(filesystem, bucket, f"{prefix}/") if upload["Initiated"] < begun_before]
    count = 0
    for upload in old:
        try:
            filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except FileNotFoundError:  # it has just been ended by somebody else
            continue
        count += 1
    return count


def _uploads(filesystem: fsspec.AbstractFileSystem, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    markers: dict[str, str] = {}
    while True:
        page = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **markers)
        yield from page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
