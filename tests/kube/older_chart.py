"""The chart for an API server that is older than it allows: without what came later, and nothing else."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.helm_chart import CHART, OLDEST


@dataclass(frozen=True, slots=True)
class Later:
    """A part of templates, the 1.x that first took it unasked, and what stands there for an older one."""

    minor: int
    part: str
    earlier: str = ""


LATER: Final = (
    Later(21, r"^apiVersion: policy/v1$", "apiVersion: policy/v1beta1"),
    Later(24, r"grpc: \{port: 50051\}$", "httpGet: {path: /healthz, port: http}"),
    Later(26, r"^podFailurePolicy:\n(  .*\n)+"),
    Later(27, r"^ +unhealthyPodEvictionPolicy: .*\n"),
    Later(27, r"^ +matchLabelKeys: .*\n"),
)


def chart_for(minor: int, folder: Path) -> Path:
    """The chart, or a copy of it in the folder that Kubernetes 1.`minor` can take."""
    if minor >= int(OLDEST.split(".")[1]):
        return CHART
    chart = folder / CHART.name
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(
        re.sub(r"^kubeVersion: .*$", f'kubeVersion: ">=1.{minor}.0-0"', about.read_text(), flags=re.MULTILINE)
    )
    for later in LATER:
        if minor < later.minor:
            changed = sum(_replace(path, later) for path in (chart / "templates").rglob("*.*"))
            assert changed, f"no template has {later.part}"
    return chart


def _replace(path: Path, later: Later) -> int:
    text, count = re.subn(later.part, later.earlier, path.read_text(), flags=re.MULTILINE)
    path.write_text(text)
    return count
