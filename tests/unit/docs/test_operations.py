"""docs/operations.md says what the code says."""

import ast
import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

import trellis.server.bootstrap
import trellis.server.main
from trellis.engine_options import EngineOptions
from trellis.server.config import OPTIONS, ServerConfig
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.snapshot import SchedulerOptions
from trellis.server.tls_options import TlsOptions

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()
CONFIG = ROOT / "services" / "trellis" / "server" / "config.py"
SOURCES = {
    EngineOptions: ROOT / "services" / "trellis" / "engine_options.py",
    TrainerOptions: ROOT / "services" / "trellis" / "server" / "domain" / "trainer_options.py",
    SchedulerOptions: ROOT / "services" / "trellis" / "server" / "scheduler" / "snapshot.py",
    TlsOptions: ROOT / "services" / "trellis" / "server" / "tls_options.py",
}
SERVING = ROOT / "services" / "trellis" / "serving" / "metrics.py"
assert trellis.server.bootstrap  # they import all that makes metrics
assert trellis.server.main


def settings_table() -> str:
    """The settings as a table, from the classes and the strings under their fields."""
    rows = []
    for field in fields(ServerConfig):
        if field.name in OPTIONS:
            kind, prefix = OPTIONS[field.name], f"{field.name.upper()}_"
            rows += [_row(prefix, one, _docstrings(SOURCES[kind], kind.__name__)) for one in fields(kind)]
        else:
            rows.append(_row("", field, _docstrings(CONFIG, "ServerConfig")))
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *rows])


def _row(prefix: str, field: Field[Any], said: dict[str, str]) -> str:
    return f"| `TRELLIS_{prefix}{field.name.upper()}` | {_default(field)} | {said[field.name]} |"


def _docstrings(path: Path, name: str) -> dict[str, str]:
    (config,) = (
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef) and node.name == name
    )
    found: dict[str, str] = {}
    for field, after in zip(config.body, config.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "must be set"
    if field.default == sys.executable:
        return "the server's own"
    if field.default in (None, "", ()):
        return ""
    return f"`{field.default:g}`" if type(field.default) is float else f"`{field.default}`"


def test_the_settings_are_the_server_s() -> None:
    assert settings_table() in PAGE, f"docs/operations.md must hold this table:\n{settings_table()}"


def test_every_metric_is_named_with_its_labels() -> None:
    for metric in REGISTRY.collect():
        if metric.name.startswith("trellis_"):
            assert re.search(rf"^\| `{metric.name}(_total)?`", PAGE, re.MULTILINE), f"{metric.name} is missing"


def test_every_metric_of_an_engine_is_named() -> None:
    names = re.findall(r'"(trellis_engine_\w+)"', SERVING.read_text())
    assert names
    for name in names:
        assert f"`{name}`" in PAGE, f"{name} is missing"


def test_no_metric_is_made_up() -> None:
    real = {metric.name for metric in REGISTRY.collect()} | set(re.findall(r'"(trellis_\w+)"', SERVING.read_text()))
    for name in re.findall(r"^\| `(trellis_\w+)`", PAGE, re.MULTILINE):
        assert name.removesuffix("_total") in real | {each.removesuffix("_total") for each in real}, name


def test_the_readme_links_the_pages() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/operations.md)" in readme
    assert "(docs/datasets.md)" in readme
