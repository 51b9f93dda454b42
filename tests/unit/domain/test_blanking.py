"""What looks like a secret is taken out of text, and nothing else."""

import pytest

from trellis.server.domain.blanking import blanked

TOKEN = "abcDEF0123456789-_abcDEF0123456789-_abcDEF0"
WEB_TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlLW9mLWl0"


@pytest.mark.parametrize(
    ("text", "without"),
    [
        (f"a trk_{TOKEN} b", "a [secret] b"),
        (f"tra_{'0' * 64}", "[secret]"),
        (f"'trt_{'f' * 64}'", "'[secret]'"),
        (f"authorization: Bearer {TOKEN}", "authorization: Bearer [secret]"),
        (f'{{"authorization": "bearer {WEB_TOKEN}"}}', '{"authorization": "bearer [secret]"}'),
        (f"token={WEB_TOKEN}.", "token=[secret]."),
        ("postgresql+psycopg://me:pass@host/db", "postgresql+psycopg://me:[secret]@host/db"),
        ("tenants/acme/datasets/trk_" + "x" * 20, "tenants/acme/datasets/[secret]"),
    ],
)
def test_secrets_are_blanked(text: str, without: str) -> None:
    assert blanked(text) == without


@pytest.mark.parametrize(
    "text",
    [
        "The key trk_abcd is shown by its prefix.",
        "Send it as `authorization: Bearer …`.",
        "tenants/acme/adapters/0123456789abcdef01234567",
        "http://127.0.0.1:8265/api/jobs/",
        '{"url": "http://host:80", "who": "ann@example.org"}',
        "retry_after_12_seconds, attr_long_name_of_a_field",
        "a" * 64,
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert blanked(text) == text
