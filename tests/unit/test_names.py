import pytest
from hypothesis import given, strategies as st

from trellis import names
from trellis.errors import InvalidArgument

DIGEST = "0123456789abcdef" * 4
NAMES = [
    (names.TenantName, "tenants/acme"),
    (names.ApiKeyName, "tenants/acme/apiKeys/key-1"),
    (names.PlatformApiKeyName, "platform/apiKeys/key-1"),
    (names.BaseModelName, "baseModels/qwen2.5_0.5b"),
    (names.DatasetName, "tenants/acme/datasets/support"),
    (names.DatasetVersionName, f"tenants/acme/datasets/support/versions/{DIGEST}"),
    (names.DatasetVersionName, "tenants/acme/datasets/support/versions/latest"),
    (names.DatasetReportName, "tenants/acme/datasets/support/versions/latest/report"),
    (names.TuningJobName, "tenants/acme/tuningJobs/job-1"),
    (names.CheckpointName, "tenants/acme/tuningJobs/job-1/checkpoints/50"),
    (names.AdapterName, f"tenants/acme/adapters/{DIGEST[:24]}"),
    (names.AliasName, "tenants/acme/aliases/support"),
]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_name_survives_parsing(kind: type[names.ResourceName], name: str) -> None:
    assert str(kind.parse(name)) == name
    assert names.tenant_of(name) == ("acme" if name.startswith("tenants/") else None)


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in NAMES}, key=str))
@pytest.mark.parametrize(
    "name",
    [
        "",
        "tenants",
        "tenants/",
        "tenants/../adapters/a",
        "tenants/acme/../globex",
        "tenants/acme/datasets/support\n",
        "/tenants/acme",
        "tenants/ACME",
        "tenants/acme/",
        "tenants/-",
        "tenants/a%2e%2e",
        "tenants/" + "a" * 64,
    ],
)
def test_what_is_no_name_is_refused_with_the_field(kind: type[names.ResourceName], name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        kind.parse(name, "parent")
    assert caught.value.reason == "INVALID_NAME"
    assert [v.field for v in caught.value.violations] == ["parent"]


@given(st.text(max_size=80))
def test_no_parsed_name_can_leave_its_collection(text: str) -> None:
    try:
        parsed = names.DatasetName.parse(text)
    except InvalidArgument:
        return
    assert text.split("/") == ["tenants", parsed.tenant, "datasets", parsed.dataset]
    assert ".." not in text


def test_ids_are_checked_by_the_rule_of_their_kind() -> None:
    assert names.check_id("tenant", "acme-2", "tenant_id") == "acme-2"
    for bad in ("", "2acme", "acme-", "ac/me", "a.b", "é"):
        with pytest.raises(InvalidArgument, match="tenant"):
            names.check_id("tenant", bad, "tenant_id")
    assert names.check_id("base_model", "qwen2.5_0.5b", "base_model_id")


def test_an_adapters_name_is_of_its_digest() -> None:
    assert str(names.AdapterName.for_digest("acme", DIGEST)) == f"tenants/acme/adapters/{DIGEST[:24]}"
