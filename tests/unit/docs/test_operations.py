"""docs/operations.md says what the code says."""

import ast
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path

from prometheus_client import REGISTRY

import trellis.server.control.loop
import trellis.server.control.metrics
import trellis.server.rpc.metrics
from trellis.server.config import ServerConfig

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text()
CONFIG = ROOT / "services" / "trellis" / "server" / "config.py"
SERVING = ROOT / "services" / "trellis" / "serving" / "metrics.py"
assert trellis.server.control.loop
assert trellis.server.control.metrics
assert trellis.server.rpc.metrics


def settings_table() -> str:
    """The settings as a table, from the class and the strings under its fields."""
    said = _docstrings()
    rows = [f"| `TRELLIS_{name.upper()}` | {default} | {said[name]} |" for name, default in _defaults().items()]
    return "\n".join(["| variable | default | what it is |", "|---|---|---|", *rows])


def _docstrings() -> dict[str, str]:
    (config,) = (
        node
        for node in ast.parse(CONFIG.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "ServerConfig"
    )
    found: dict[str, str] = {}
    for field, after in zip(config.body, config.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            found[field.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found


def _defaults() -> dict[str, str]:
    shown: dict[str, str] = {}
    for field in fields(ServerConfig):
        if field.default is MISSING:
            shown[field.name] = "must be set"
        elif field.default == sys.executable:
            shown[field.name] = "the server's own"
        elif field.default in (None, "", ()):
            shown[field.name] = ""
        else:
            shown[field.name] = f"`{field.default:g}`" if type(field.default) is float else f"`{field.default}`"
    return shown


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
