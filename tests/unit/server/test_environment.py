from dataclasses import replace

from tests.contract.control.platform import SETTINGS

from trellis.server.control.environment import process_environment


def test_jobs_are_told_whom_to_trust_where_that_is_said() -> None:
    assert "TRELLIS_WORKER_CA" not in process_environment(SETTINGS, 1.0)
    trusting = process_environment(replace(SETTINGS, worker_endpoint="https://a:1", worker_ca="PEM"), 1.0)
    assert (trusting["TRELLIS_WORKER_CA"], trusting["TRELLIS_WORKER_ENDPOINT"]) == ("PEM", "https://a:1")
