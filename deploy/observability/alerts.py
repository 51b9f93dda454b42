"""What somebody shall be told of; docs/runbooks/alerts.md has a section for each."""

from dataclasses import dataclass
from typing import Any, Final

from deploy.observability.slos import SLOS

RUNBOOKS: Final = "https://trellis.dev/docs/runbooks/alerts.md"
"""The chart puts `observability.prometheusRule.runbooks` in its place."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One kind of trouble."""

    name: str
    severity: str
    """`critical` wakes somebody, `warning` is for working hours."""
    lasts: str
    expr: str
    summary: str
    description: str

    def to_rule(self) -> dict[str, Any]:
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOKS}#{self.name.lower()}",
            },
        }


_SERVERS: Final = (
    Alert("TrellisNoServer", "critical", "2m", 'absent(up{job="trellis"} == 1)',
          "No server of Trellis is reached.", "Prometheus reaches no server: either none runs, or the ServiceMonitor finds none."),
    Alert("TrellisDatabaseDown", "critical", "1m",
          'time() - max by (namespace) (trellis_control_loop_done_timestamp_seconds{loop="measure"}) > 60',
          "No server has read the database for a minute.",
          "The simplest loop of all servers in {{ $labels.namespace }}, which only reads, has not ended well for"
          " {{ $value | humanizeDuration }}."),
    Alert("TrellisNoLeader", "critical", "5m", "max by (namespace, loop) (trellis_lease_held) == 0",
          "Nobody does the rounds of {{ $labels.loop }}.",
          "No server holds the lease of the loop {{ $labels.loop }}, which one server at a time does."),
    Alert("TrellisLoopFailing", "warning", "10m",
          "sum by (namespace, loop) (increase(trellis_control_loop_errors_total[10m])) > 5",
          "The loop {{ $labels.loop }} fails again and again.",
          "{{ $value | humanize }} rounds of {{ $labels.loop }} raised in ten minutes; the log has control_loop_failed."),
    Alert("TrellisLoopStuck", "warning", "5m",
          "time() - max by (namespace, loop) (trellis_control_loop_done_timestamp_seconds) > 7800",
          "The loop {{ $labels.loop }} has not ended a round for long.",
          "No server has ended a round of {{ $labels.loop }} without an error for {{ $value | humanizeDuration }}."),
    Alert("TrellisCertificateExpires", "warning", "1h",
          "min by (namespace) (trellis_tls_certificate_expires > 0) - time() < 14 * 86400",
          "The certificate of the API expires soon.", "It is good for {{ $value | humanizeDuration }}."),
    Alert("TrellisDatabasePoolFull", "warning", "5m",
          'max by (namespace, instance) (trellis_database_connections{state="used"})'
          ' / max by (namespace, instance) (trellis_database_connections{state="most"} > 0) > 0.9',
          "A server has hardly a connection to the database left.",
          "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the connections that its pool may have."),
    Alert("TrellisDatabaseSlow", "warning", "10m",
          "histogram_quantile(0.99, sum by (namespace, le) (rate(trellis_database_statement_seconds_bucket[5m]))) > 1",
          "The database answers slowly.", "One of a hundred statements takes longer than {{ $value | humanizeDuration }}."),
    Alert("TrellisObjectStoreFailing", "warning", "5m",
          "sum by (namespace) (rate(trellis_objects_errors_total[5m]))"
          " / (sum by (namespace) (rate(trellis_objects_seconds_count[5m])) > 0) > 0.05",
          "Calls of the object store fail.", "{{ $value | humanizePercentage }} of the loops' calls of the object store fail."),
)  # fmt: skip

_JOBS: Final = (
    Alert("TrellisQueueStuck", "critical", "5m",
          "max by (namespace) (trellis_oldest_queued_job_seconds) > 1800"
          " and on (namespace) sum by (namespace) (increase(trellis_attempts_started_total[30m])) == 0",
          "Jobs wait, and none is started.",
          "The oldest job has waited for {{ $value | humanizeDuration }}, and nothing was given capacity for half an hour."),
    Alert("TrellisTrainerSilent", "warning", "1m",
          'sum by (namespace) (increase(trellis_trainers_lost_total{how="silent"}[15m])) > 0',
          "A shared trainer fell silent.",
          "It was not heard of for a lease, and was taken for dead; its jobs go on elsewhere from their checkpoints."),
    Alert("TrellisTrainersNotStarting", "warning", "1m",
          'sum by (namespace) (increase(trellis_trainers_lost_total{how="not_started"}[1h])) > 1',
          "Shared trainers do not come up.", "{{ $value | humanize }} trainers in an hour never called."),
    Alert("TrellisAttemptsLost", "warning", "10m",
          "sum by (namespace) (increase(trellis_attempts_lost_total[1h]))"
          " / (sum by (namespace) (increase(trellis_attempts_started_total[1h])) > 4) > 0.2",
          "Many attempts are lost.", "{{ $value | humanizePercentage }} of the attempts of the last hour did not end by themselves."),
    Alert("TrellisOutOfMemory", "warning", "1m",
          'sum by (namespace) (increase(trellis_attempts_ended_total{cause="OUT_OF_MEMORY"}[1h])) > 3',
          "Attempts run out of memory.", "{{ $value | humanize }} attempts in an hour; each is tried again with half the work in a pass."),
    Alert("TrellisSchedulerSlow", "warning", "10m",
          "histogram_quantile(0.99, sum by (namespace, le) (rate(trellis_scheduler_decision_seconds_bucket[10m]))) > 5",
          "Decisions over the queue take long.", "One of a hundred takes longer than {{ $value | humanizeDuration }}."),
    Alert("TrellisReportsFailing", "warning", "5m",
          'sum by (namespace) (increase(trellis_reports_total{result="failed"}[30m])) > 0',
          "Reports on datasets can't be made.", "{{ $value | humanize }} reports failed in half an hour, by no fault of the data."),
)  # fmt: skip

_ENGINES: Final = (
    Alert("TrellisEngineBusy", "warning", "10m",
          'sum by (namespace, application) (rate(ray_trellis_engine_requests_total{outcome="ENGINE_BUSY"}[5m]))'
          " / (sum by (namespace, application) (rate(ray_trellis_engine_requests_total[5m])) > 0) > 0.05",
          "The engine {{ $labels.application }} refuses requests.",
          "{{ $value | humanizePercentage }} of its requests find no room to wait."),
    Alert("TrellisAdaptersThrash", "warning", "15m",
          'sum by (namespace, application) (rate(ray_trellis_engine_adapter_events_total{event="evicted"}[10m]))'
          ' / (sum by (namespace, application) (rate(ray_trellis_engine_adapter_events_total{event="used"}[10m])) > 0) > 0.5',
          "Adapters push each other out of the bank of {{ $labels.application }}.",
          "For {{ $value | humanizePercentage }} of the answers an adapter left the bank."),
    Alert("TrellisAdapterLoadsFailing", "warning", "5m",
          'sum by (namespace, application) (increase(ray_trellis_engine_adapter_events_total{event="failed"}[15m])) > 3',
          "The engine {{ $labels.application }} can't fetch adapters.", "{{ $value | humanize }} loads failed in a quarter of an hour."),
)  # fmt: skip


def burning() -> list[Alert]:
    """An objective's budget is used up too fast."""
    found = []
    for slo in SLOS:
        summary = f"The budget of the objective {slo.name} burns too fast."
        for severity, expr, lasts in slo.alerts():
            said = (
                f"The promise is that {100 * slo.objective:g} % of the time {slo.said}; in {{{{ $labels.namespace }}}} the"
                " month's budget is used up {{ $value | humanize }} times as fast as that allows."
            )
            found.append(Alert(slo.alert, severity, lasts, expr, summary, said))
    return found


ALERTS: Final = (*_SERVERS, *_JOBS, *_ENGINES, *burning())


def groups() -> list[dict[str, Any]]:
    """The rules that alert, by group."""
    parts = {"servers": _SERVERS, "jobs": _JOBS, "engines": _ENGINES, "slos": burning()}
    return [{"name": f"trellis-{name}", "rules": [one.to_rule() for one in part]} for name, part in parts.items()]
