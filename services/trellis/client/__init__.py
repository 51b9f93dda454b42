"""The SDK: `Client` and `AsyncClient`, what they take and give, and what they raise."""

from trellis.client._blocking import Stream
from trellis.client._check import DatasetCheck, InvalidDataset, check_dataset
from trellis.client._client import AsyncClient, Client
from trellis.client._export_failed import ExportFailed
from trellis.client._job_failed import JobCancelled, JobFailed
from trellis.client._retry import Retry
from trellis.client.profiles import Profile, ProfileError, Profiles

__all__ = [
    "AsyncClient",
    "Client",
    "DatasetCheck",
    "ExportFailed",
    "InvalidDataset",
    "JobCancelled",
    "JobFailed",
    "Profile",
    "ProfileError",
    "Profiles",
    "Retry",
    "Stream",
    "check_dataset",
]
