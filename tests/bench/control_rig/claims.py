"""What was expected of each row before the first full run, and what it is measured against."""

from collections.abc import Mapping
from typing import Final

EMPTY: Final = "empty grpc.aio handler"
SELECT: Final = "SELECT by key, same driver"
FIRST: Final = "first page"
ONE: Final = "one server"
NO_STREAM: Final = "no stream"

EXPECTED: Final[Mapping[str, str]] = {
    "get_job_1": "0.2 of the empty handler: two transactions of three round trips each, and the job's row read and written out",
    "get_job_16": "0.15: Python's one thread is busy with both, and does some six times as much for a real answer",
    "get_job_64": "0.15, and p99 four times that of 16",
    "get_job_16_over_select": "0.4: the call has two such transactions, the key's and the job's, and gRPC around them",
    "get_tenant_16": "as get_job, some more, for the row is smaller",
    "list_adapters_16": "0.3 of get_job's: a page of 50",
    "list_jobs_16": "0.15 of get_job's: a page has 50 rows, each with a spec to be read",
    "list_jobs_deep_16": "1.0 of the first page: it begins at a key in the index",
    "list_jobs_all_16": "1.0 of a tenant's page",
    "create_dataset_16": "0.3 of get_job's: five statements and a commit to the disk",
    "create_job_16": "0.1 of get_job's: twenty statements, under a lock of the tenant's row",
    "get_job_64_two_servers": "1.2 of one server on two cores, where the callers and PostgreSQL need their part too; near 2 with cores to spare",
    "create_dataset_16_two_servers": "1.1: as for reads",
    "watch_500_idle": "at most 0.05 of a CPU more than no stream: four looks a second of one query over 25 jobs",
    "watch_1_idle": "at most 0.02 of a CPU more than no stream",
    "watch_delay_p50": "150 ms: half of the pause of 250 ms between two looks, and the reading; of another server's events",
    "watch_delay_p99": "400 ms",
}
"""By name of the row: the ratio, or the value where there is no peer, and why."""
