"""The file of identity providers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trellis.server.domain.caller import Role, Scope
from trellis.server.oidc.issuers import ALGORITHMS, Grant, IssuerError, read_issuers

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
SOUND: dict[str, Any] = {
    "issuer": "https://login.example.com",
    "audiences": ["trellis"],
    "tenant_claim": "team",
    "role_claim": "groups",
    "grants": [{"value": "tuners", "role": "MEMBER"}],
}


def written(folder: Path, *tables: dict[str, Any]) -> Path:
    path = folder / "issuers.json"
    path.write_text(json.dumps({"issuers": tables}))
    return path


def test_the_example_of_the_page_is_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(\[\[issuers\]\].*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "issuers.toml"
    path.write_text(example)
    first, second = read_issuers(path)
    assert first.issuer == "https://login.example.com/realms/ml"
    assert first.tenants == {"Machine Learning": "acme"}
    assert Grant(Role.MEMBER, "applications", frozenset({Scope.GENERATE})) in first.grants
    assert (first.clock_skew_seconds, first.algorithms) == (60.0, ("RS256",))
    assert [grant.tenant for grant in second.grants] == ["globex"]
    assert second.algorithms == ("RS256", "ES256")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": ""}, r"issuers\[0\].issuer must be set"),
        ({"issuer": "http://login.example.com"}, "must begin with https://"),
        ({"jwks_uri": "ftp://login.example.com"}, "jwks_uri must begin with https://"),
        ({"audiences": []}, "audiences must be set"),
        ({"audiences": "trellis"}, "audiences is of the wrong kind"),
        ({"algorithms": ["none"]}, "algorithms has 'none'"),
        ({"algorithms": ["HS256"]}, "algorithms has 'HS256'"),
        ({"clock_skew_seconds": 301}, "from 0 to 300"),
        ({"tenants": {"a": 1}}, "ids of tenants"),
        ({"grants": []}, "grants must say"),
        ({"grants": [{"role": "ATTEMPT"}]}, "must be MEMBER or TENANT_ADMIN or ADMIN"),
        ({"grants": [{"role": "MEMBER", "scopes": ["ALL"]}]}, "scopes has 'ALL'"),
        ({"grants": [{"role": "ADMIN"}]}, "must name a value"),
        ({"grants": [{"role": "ADMIN", "value": "a", "tenant": "acme"}]}, "and no tenant"),
        ({"grants": [{"role": "MEMBER", "colour": "red"}]}, r"grants\[0\] has the unknown field 'colour'"),
        ({"tenant_claim": ""}, "must have tenant_claim"),
        ({"role_claim": ""}, "must have role_claim"),
        ({"audience": "x"}, "unknown field 'audience'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IssuerError, match=message):
        read_issuers(written(tmp_path, {**SOUND, **changes}))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(IssuerError, match="stand there once"):
        read_issuers(written(tmp_path, SOUND, SOUND))
    with pytest.raises(IssuerError, match="can't be read"):
        read_issuers(tmp_path / "missing.toml")
    for name, text in (
        ("a.toml", "issuers = 1"),
        ("a.json", "[]"),
        ("a.toml", "= wrong"),
        ("a.json", '{"issuers": [1]}'),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(IssuerError, match=name):
            read_issuers(tmp_path / name)


def test_no_algorithm_has_a_key_that_both_sides_share() -> None:
    assert not [name for name in ALGORITHMS if name.startswith(("HS", "none"))]
