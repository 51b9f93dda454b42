"""The platform as it stands, with engine and trainers, tries whether its tenants are isolated."""

import json

from tests.e2e.platform import Platform
from tests.e2e.readme import sharing_lines

import trellis


def test_the_whole_platform_is_isolated(platform: Platform, admin: trellis.Client) -> None:
    metrics = f"http://localhost:{platform.ports[1]}/metrics"
    line = f"{sharing_lines()[-1]} --flood-seconds 3 --metrics-url {metrics} --format json"
    done = platform.shell(line, check=False, TRELLIS_API_KEY=platform.admin_key, TRELLIS_ENDPOINT=platform.endpoint)
    assert done.stdout, done.stderr
    report = json.loads(done.stdout)
    failed = {finding["check"]: finding["evidence"] for finding in report["findings"] if finding["outcome"] == "FAILED"}
    assert failed == {}
    assert {
        finding["check"]: finding["detail"] for finding in report["findings"] if finding["outcome"] != "PASSED"
    } == {}
    assert done.returncode == 0
    assert report["left_behind"] == []
    assert not {tenant.name for tenant in admin.tenants.list()} & {f"tenants/{name}" for name in report["tenants"]}
