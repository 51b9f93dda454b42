"""Alerts and objectives: of series that there are, each with a runbook, and they fire when they should and not before."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from deploy.observability import alerts, slos
from tests.helm_chart import CHART, render
from tests.promtool import play, promtool
from tests.registered_metrics import TARGET, asked, registered

from trellis.cli.main import trellis

ROOT = Path(__file__).parents[3]
RULES = (CHART / "rules" / "slos.yaml", CHART / "rules" / "alerts.yaml")
RUNBOOK = (ROOT / "docs" / "runbooks" / "alerts.md").read_text()
PAGE = (ROOT / "docs" / "slos.md").read_text()
HERE = 'namespace="here"'
SERVER = f'{HERE}, instance="s1", job="trellis"'


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_each_rule_asks_for_what_there_is() -> None:
    recorded = frozenset({"slo", "window"}) | TARGET
    series = {**registered(), "up": TARGET, slos.BURN: recorded, "trellis:usage_fresh:bool": recorded}
    for rule in rules():
        found = asked(rule["expr"])
        assert found.names <= series.keys(), sorted(found.names - series.keys())
        for name, labels in found.matched:
            assert labels <= series[name], f"{name} has no {sorted(labels - series[name])}"
        if found.names:
            everywhere = frozenset[str]().union(*(series[name] for name in found.names))
            assert found.grouped <= everywhere, f"nothing has {sorted(found.grouped - everywhere)}"


def test_prometheus_reads_them() -> None:
    promtool("check", "rules", *map(str, RULES))


def test_the_chart_brings_them_with_links_to_where_runbooks_are() -> None:
    rendered = render("production", "--set", "observability.prometheusRule.runbooks=https://wiki.example/alerts")
    (one,) = rendered.all("PrometheusRule")
    groups = one["spec"]["groups"]
    brought = [rule for group in groups for rule in group["rules"]]
    assert [rule["expr"] for rule in brought] == [rule["expr"] for rule in rules()]
    links = {rule["annotations"]["runbook_url"] for rule in brought if "alert" in rule}
    assert links == {f"https://wiki.example/alerts#{alert.name.lower()}" for alert in alerts.ALERTS}


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    titles = [section.splitlines()[0] for section in sections]
    assert titles == list(dict.fromkeys(alert.name for alert in alerts.ALERTS))
    for title, section in zip(titles, sections, strict=True):
        for part in ("**Means.**", "**Users see.**", "**Look.**", "**Mend.**"):
            assert part in section, f"{title} lacks {part}"


def test_the_commands_of_the_runbooks_are_there() -> None:
    asked_for = {tuple(found.split()) for found in re.findall(r"`trellis ([a-z][^`]*)`", RUNBOOK)}
    assert len(asked_for) > 5
    for words in asked_for:
        command: click.Command | None = trellis
        context = click.Context(trellis)
        names = [word for word in words if not word.startswith("-") and word.islower()]
        for name in names:
            assert isinstance(command, click.Group), f"trellis {' '.join(words)}"
            command = command.get_command(context, name)
            assert command is not None, f"there is no trellis {' '.join(words)}"
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, f"trellis {' '.join(words)}"


def test_each_alert_says_how_grave_it_is_and_for_how_long() -> None:
    for alert in alerts.ALERTS:
        assert alert.severity in {"critical", "warning"}
        assert re.fullmatch(r"\d+[mh]", alert.lasts)
        assert alert.summary.endswith(".")
        assert alert.description.endswith(".")


def test_the_page_of_objectives_says_what_is_measured() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ([\d.]+) % \|", PAGE, re.MULTILINE))
    assert rows == {slo.name: f"{100 * slo.objective:g}" for slo in slos.SLOS}
    assert all(f"`{slo.alert}`" in PAGE for slo in slos.SLOS)


def _fires(alert: str, at: str, series: dict[str, str], *, severity: str = "", labels: str = "") -> dict[str, Any]:
    """One story: the series, and whether the alert fires at a time; what it says is taken from the rule itself."""
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    query = f'count(ALERTS{{alertname="{alert}", alertstate="firing"{labels}}}) or vector(0)'
    expected = [{"labels": "{}", "value": 1 if severity else 0}]
    return {
        "input_series": inputs,
        "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": expected}],
    }


def _calls(ok: str, bad: str, method: str = "/trellis.v1.TuningJobService/GetTuningJob") -> dict[str, str]:
    return {
        f'trellis_rpc_calls_total{{{SERVER}, method="{method}", status="OK"}}': ok,
        f'trellis_rpc_calls_total{{{SERVER}, method="{method}", status="UNAVAILABLE"}}': bad,
    }


def _starts(within: str, after: str) -> dict[str, str]:
    return {
        f'trellis_job_start_error_seconds_count{{{SERVER}, against="within"}}': within,
        f'trellis_job_start_error_seconds_count{{{SERVER}, against="after"}}': after,
    }


_MODELS = "/trellis.v1.InferenceService/Generate"
_DONE = f'trellis_control_loop_done_timestamp_seconds{{{SERVER}, loop="measure"}}'
_OLDEST = f"trellis_oldest_queued_job_seconds{{{SERVER}}}"
_STARTED = f"trellis_attempts_started_total{{{SERVER}}}"
_HELD = 'trellis_lease_held{%s, instance="%s", loop="deploy"}'
_LOST = f'trellis_trainers_lost_total{{{SERVER}, how="silent"}}'
STORIES: dict[str, dict[str, Any]] = {
    "2 % of calls fail for an hour: far beyond 14.4 times 0.1 %": _fires(
        "TrellisApiBurn", "70m", _calls("0+98x90", "0+2x90"), severity="critical", labels=', severity="critical"'
    ),
    "0.05 % fail: half of what may": _fires(
        "TrellisApiBurn", "30m", _calls("0+9995x40", "0+5x40"), labels=', severity="critical"'
    ),
    "a failure of five minutes that is over wakes nobody": _fires(
        "TrellisApiBurn", "40m", _calls("0+98x60", "0+2x5 10x60"), labels=', severity="critical"'
    ),
    "calls that callers got wrong are no failures": _fires(
        "TrellisApiBurn",
        "70m",
        {f'trellis_rpc_calls_total{{{SERVER}, method="/x/Y", status="INVALID_ARGUMENT"}}': "0+100x90"},
    ),
    "calls of models that fail are another objective": _fires(
        "TrellisModelCallsBurn",
        "70m",
        _calls("0+80x90", "0+20x90", _MODELS),
        severity="critical",
        labels=', severity="critical"',
    ),
    "and do not count against the API": _fires("TrellisApiBurn", "70m", _calls("0+80x90", "0+20x90", _MODELS)),
    "jobs wait and none is started": _fires(
        "TrellisQueueStuck", "45m", {_OLDEST: "0+60x60", _STARTED: "7x60"}, severity="critical"
    ),
    "jobs wait long, but others are started": _fires(
        "TrellisQueueStuck", "45m", {_OLDEST: "0+60x60", _STARTED: "0+1x60"}
    ),
    "nobody holds a lease": _fires(
        "TrellisNoLeader", "10m", {_HELD % (HERE, "s1"): "0x20", _HELD % (HERE, "s2"): "0x20"}, severity="critical"
    ),
    "one of two servers holds it, in turns": _fires(
        "TrellisNoLeader", "10m", {_HELD % (HERE, "s1"): "1x5 0x20", _HELD % (HERE, "s2"): "0x5 1x20"}
    ),
    "the database is away": _fires("TrellisDatabaseDown", "10m", {_DONE: "0+60x5 300x20"}, severity="critical"),
    "the database is there": _fires("TrellisDatabaseDown", "10m", {_DONE: "0+60x20"}),
    "the database is there for one server of two": _fires(
        "TrellisDatabaseDown", "10m", {_DONE: "0+60x20", _DONE.replace("s1", "s2"): "0x20"}
    ),
    "no server": _fires("TrellisNoServer", "5m", {f"up{{{SERVER}}}": "0x10"}, severity="critical"),
    "a server": _fires("TrellisNoServer", "5m", {f"up{{{SERVER}}}": "1x10"}),
    "a trainer fell silent": _fires("TrellisTrainerSilent", "10m", {_LOST: "0x3 1x20"}, severity="warning"),
    "one that fell silent long ago": _fires("TrellisTrainerSilent", "60m", {_LOST: "0x3 1x90"}),
    "the pool is full": _fires(
        "TrellisDatabasePoolFull",
        "10m",
        {
            f'trellis_database_connections{{{SERVER}, state="used"}}': "29x20",
            f'trellis_database_connections{{{SERVER}, state="most"}}': "30x20",
        },
        severity="warning",
    ),
    "an engine refuses": _fires(
        "TrellisEngineBusy",
        "20m",
        {
            f'ray_trellis_engine_requests_total{{{HERE}, application="a", outcome="ENGINE_BUSY"}}': "0+1x30",
            f'ray_trellis_engine_requests_total{{{HERE}, application="a", outcome="STOP"}}': "0+9x30",
        },
        severity="warning",
    ),
    "the certificate is good for ten days": _fires(
        "TrellisCertificateExpires",
        "2h",
        {f"trellis_tls_certificate_expires{{{SERVER}}}": "864000x130"},
        severity="warning",
    ),
    "there is no certificate": _fires(
        "TrellisCertificateExpires", "2h", {f"trellis_tls_certificate_expires{{{SERVER}}}": "0x130"}
    ),
}
"""A sample a minute."""
DAYS: dict[str, dict[str, Any]] = {
    "0.15 % fail for three days: slowly, but too fast": _fires(
        "TrellisApiBurn", "80h", _calls("0+9985x170", "0+15x170"), severity="warning", labels=', severity="warning"'
    ),
    "first tokens are slow for days": _fires(
        "TrellisFirstTokenBurn",
        "30h",
        {
            f'ray_trellis_engine_first_token_seconds_bucket{{{HERE}, le="2.5"}}': "0+50x70",
            f"ray_trellis_engine_first_token_seconds_count{{{HERE}}}": "0+100x70",
        },
        severity="warning",
    ),
    "jobs start later than foretold": _fires(
        "TrellisStartsLateBurn", "30h", _starts("0+6x70", "0+4x70"), severity="warning"
    ),
    "one of twenty does": _fires("TrellisStartsLateBurn", "30h", _starts("0+19x70", "0+1x70")),
    "jobs start sooner than foretold": _fires(
        "TrellisStartsLateBurn",
        "30h",
        {f'trellis_job_start_error_seconds_count{{{SERVER}, against="before"}}': "0+9x70", **_starts("0+1x70", "0x70")},
    ),
    "jobs fail by the platform's fault": _fires(
        "TrellisJobsLostBurn",
        "30h",
        {
            f'trellis_jobs_ended_total{{{SERVER}, state="FAILED", cause="INFRASTRUCTURE"}}': "0+1x70",
            f'trellis_jobs_ended_total{{{SERVER}, state="SUCCEEDED", cause="SUCCESS"}}': "0+9x70",
        },
        severity="warning",
    ),
    "usage is not metered while nobody holds the lease": _fires(
        "TrellisUsageStaleBurn",
        "30h",
        {
            f"up{{{SERVER}}}": "1x70",
            f'trellis_lease_held{{{SERVER}, loop="meter_storage"}}': "0x70",
            f'trellis_control_loop_done_timestamp_seconds{{{SERVER}, loop="meter_storage"}}': "0+1800x70",
        },
        severity="warning",
    ),
    "usage is metered": _fires(
        "TrellisUsageStaleBurn",
        "30h",
        {
            f"up{{{SERVER}}}": "1x70",
            f'trellis_lease_held{{{SERVER}, loop="meter_storage"}}': "1x70",
            f'trellis_control_loop_done_timestamp_seconds{{{SERVER}, loop="meter_storage"}}': "0+1800x70",
        },
    ),
}
"""A sample in half an hour."""


@pytest.mark.parametrize(("interval", "stories"), [("1m", STORIES), ("30m", DAYS)])
def test_alerts_fire_when_they_should_and_not_before(
    interval: str, stories: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    rules = [_looked_at_every(interval, path, tmp_path) for path in RULES]
    play(tmp_path, rules, [{"name": name, "interval": interval, **story} for name, story in stories.items()], interval)


def _looked_at_every(interval: str, rules: Path, folder: Path) -> Path:
    """The same rules, less often: promtool takes minutes for days of half minutes."""
    copy = folder / rules.name
    groups = yaml.safe_load(rules.read_text())["groups"]
    copy.write_text(yaml.safe_dump({"groups": [{**group, "interval": interval} for group in groups]}))
    return copy
