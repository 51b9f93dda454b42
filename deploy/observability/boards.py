"""What is on each dashboard. Figures that every server reports alike are taken as the maximum over servers."""

from typing import Final

from deploy.observability.board import Board
from deploy.observability.engine_boards import ENGINES
from deploy.observability.panel import Panel, quantiles, stat

_JOBS: Final = (
    'max by (state) (trellis_jobs{HERE, state=~"QUEUED|STARTING|RUNNING|PAUSED|PAUSING|PREEMPTING|CANCELLING"})'
)
_BAD_CALLS: Final = 'status=~"UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED"'
_SHARE_OF_BAD: Final = (
    f"sum(rate(trellis_rpc_calls_total{{HERE, {_BAD_CALLS}}}[5m])) / sum(rate(trellis_rpc_calls_total{{HERE}}[5m]))"
)
_ENDS: Final = "sum by (state, cause) (increase(trellis_jobs_ended_total{HERE}[1h]))"

OVERVIEW: Final = Board(
    "overview", "overview", "Whether it works, what it does, and where to look next.",
    (
        ("Now", (
            stat("Servers", "Servers that Prometheus reaches.", "none", 'count(up{HERE, job="trellis"} == 1)'),
            stat("Calls", "Calls a second, of users and of jobs.", "reqps", "sum(rate(trellis_rpc_calls_total{HERE}[5m]))"),
            stat("Failed calls", "Share of calls that failed by the platform's fault.", "percentunit", _SHARE_OF_BAD, 0.01),
            stat("Queued jobs", "Jobs that wait.", "none", 'max(trellis_jobs{HERE, state="QUEUED"})'),
            stat("Oldest queued job", "How long it has waited.", "s", "max(trellis_oldest_queued_job_seconds{HERE})", 3600),
            stat("Running jobs", "Jobs that are trained.", "none", 'max(trellis_jobs{HERE, state="RUNNING"})'),
        )),
        ("Objectives", (
            Panel("Budget of failed calls", "How much faster than allowed failures of the API use up the month's budget; 1 is"
                  " just as fast as allowed. See docs/slos.md.", "none",
                  tuple((f'trellis:slo_burn:ratio{{HERE, slo="api-availability", window="{w}"}}', w) for w in ("5m", "1h", "6h", "3d"))),
            Panel("Budget of failed model calls", "The same of calls of models.", "none",
                  tuple((f'trellis:slo_burn:ratio{{HERE, slo="model-calls", window="{w}"}}', w) for w in ("5m", "1h", "6h", "3d"))),
            Panel("Budgets of the other objectives", "First tokens, waits in the queue, jobs lost to the platform, over an hour.",
                  "none", (('trellis:slo_burn:ratio{HERE, slo!~"api-availability|model-calls", window="1h"}', "{{slo}}"),)),
        )),
        ("Work", (
            Panel("Jobs", "Jobs that have not ended, by state.", "none", ((_JOBS, "{{state}}"),), stacked=True),
            Panel("Jobs that ended", "In an hour, by state and cause. FAILED by INFRASTRUCTURE is the platform's fault.", "none",
                  ((_ENDS, "{{state}} {{cause}}"),), stacked=True),
            Panel("Training", "Tokens a second on shared trainers, by base model.", "none",
                  (("max by (base_model) (trellis_trainer_tokens_per_second{HERE})", "{{base_model}}"),), stacked=True),
            Panel("Answers", "Tokens a second that engines read and made.", "none",
                  (("sum by (kind) (rate(ray_trellis_engine_tokens_total{HERE}[5m]))", "{{kind}}"),)),
            quantiles("First token", "From a request's arrival at an engine to its first token.",
                      "ray_trellis_engine_first_token_seconds"),
            Panel("Requests of models", "Requests a second that ended at engines, by how.", "reqps",
                  (("sum by (outcome) (rate(ray_trellis_engine_requests_total{HERE}[5m]))", "{{outcome}}"),), stacked=True),
        )),
    ),
)  # fmt: skip

TENANTS: Final = Board(
    "tenants", "tenants", "Who uses what. Tenants beyond the busiest are shown together as `other`.",
    (
        ("Queue", (
            Panel("Queued jobs", "Jobs that wait, of the 20 tenants that have most.", "none",
                  (("max by (tenant) (trellis_queue_jobs{HERE})", "{{tenant}}"),), stacked=True, width=12),
            Panel("Oldest queued job", "How long the oldest one of each of them has been there.", "s",
                  (("max by (tenant) (trellis_queue_oldest_seconds{HERE})", "{{tenant}}"),), width=12),
        )),
        ("Models", (
            Panel("Tokens of answers", "Tokens a second that were made for each of the busiest tenants of each engine.", "none",
                  (('sum by (tenant) (rate(ray_trellis_engine_tenant_tokens_total{HERE, kind="completion"}[5m]))',
                    "{{tenant}}"),), stacked=True, width=12),
            Panel("Tokens of prompts", "Tokens a second that were read for them.", "none",
                  (('sum by (tenant) (rate(ray_trellis_engine_tenant_tokens_total{HERE, kind="prompt"}[5m]))', "{{tenant}}"),),
                  stacked=True, width=12),
        )),
        ("Limits", (
            Panel("Refusals by quotas", "Calls an hour that a limit had no room for, by the limit.", "none",
                  (("sum by (limit) (increase(trellis_quota_refusals_total{HERE}[1h]))", "{{limit}}"),), stacked=True),
            Panel("Budgets reached", "Budgets that are used up to their soft or hard limit; the log names whose.", "none",
                  (("max by (meter, limit) (trellis_budgets_reached{HERE})", "{{meter}} {{limit}}"),)),
            Panel("Settled usage", "What the ledger settled a second, in each meter's units.", "none",
                  (('sum by (meter) (rate(trellis_ledger_quantity_total{HERE, kind="SETTLE"}[5m]))', "{{meter}}"),)),
        )),
    ),
)  # fmt: skip

QUEUE: Final = Board(
    "queue", "queue", "What waits, for how long, and how it is decided.",
    (
        ("Waiting", (
            Panel("Jobs", "Jobs that have not ended, by state.", "none", ((_JOBS, "{{state}}"),), stacked=True),
            Panel("Oldest queued job", "How long it has been there.", "s",
                  (("max(trellis_oldest_queued_job_seconds{HERE})", "oldest"),)),
            quantiles("Wait before admission", "Of jobs that were admitted.", "trellis_job_queue_wait_seconds"),
            Panel("Starts against what was foretold", "In an hour, before, within and after the interval that was foretold when the"
                  " job began to wait.", "none",
                  (("sum by (against) (increase(trellis_job_start_error_seconds_count{HERE}[1h]))", "{{against}}"),),
                  stacked=True, width=12),
            quantiles("Later than foretold", "How much later than expected jobs started; below 0 sooner.",
                      "trellis_job_start_error_seconds"),
        )),
        ("Decisions", (
            Panel("Attempts that were given capacity", "An hour.", "none",
                  (("sum(increase(trellis_attempts_started_total{HERE}[1h]))", "started"),
                   ("sum(increase(trellis_jobs_preempted_total{HERE}[1h]))", "preempted"))),
            quantiles("Time of a decision", "Over the whole queue, without what is read and written.",
                      "trellis_scheduler_decision_seconds"),
            quantiles("Round of admission", "With what is read and written.", "trellis_control_loop_seconds", ', loop="admit"'),
        )),
        ("Ends", (
            Panel("Jobs that ended", "In an hour, by state and cause.", "none", ((_ENDS, "{{state}} {{cause}}"),), stacked=True),
            Panel("Attempts that ended", "In an hour, by cause.", "none",
                  (("sum by (cause) (increase(trellis_attempts_ended_total{HERE}[1h]))", "{{cause}}"),), stacked=True),
            Panel("Attempts that were lost", "In an hour: not_started, silent, dead, stuck, trainer; and those that did not stop"
                  " in time.", "none",
                  (("sum by (how) (increase(trellis_attempts_lost_total{HERE}[1h]))", "{{how}}"),
                   ("sum(increase(trellis_attempts_stopped_total{HERE}[1h]))", "stopped"))),
        )),
        ("Datasets", (
            Panel("Reports", "Dataset reports that were made in an hour.", "none",
                  (("sum by (result) (increase(trellis_reports_total{HERE}[1h]))", "{{result}}"),), stacked=True, width=12),
            quantiles("Time of a report", "How long it took to make one.", "trellis_report_seconds"),
        )),
    ),
)  # fmt: skip

TRAINERS: Final = Board(
    "trainers", "trainers", "Shared trainers: how many, how busy, how quick, and how they end.",
    (
        ("Trainers", (
            Panel("Trainers", "By base model and state.", "none",
                  (("max by (base_model, state) (trellis_trainers{HERE})", "{{base_model}} {{state}}"),), stacked=True),
            Panel("Jobs", "Jobs on the trainers of each base model.", "none",
                  (("max by (base_model) (trellis_trainer_jobs{HERE})", "{{base_model}}"),), stacked=True),
            Panel("Jobs a trainer", "How many share one.", "none",
                  ((('max by (base_model) (trellis_trainer_jobs{HERE}) / max by (base_model) (trellis_trainers{HERE,'
                    ' state="RUNNING"} > 0)'), "{{base_model}}"),)),
            Panel("Tokens a second", "What they train, over their last steps.", "none",
                  (("max by (base_model) (trellis_trainer_tokens_per_second{HERE})", "{{base_model}}"),), stacked=True),
            Panel("Room", "What running trainers have room for: jobs, and rank rows of their adapter banks.", "none",
                  (("max by (base_model, of) (trellis_trainer_room{HERE})", "{{base_model}} {{of}}"),)),
            Panel("Silence", "How long the most silent trainer was not heard of; at a lease it is taken for dead.", "s",
                  (("max by (base_model) (trellis_trainer_silent_seconds{HERE})", "{{base_model}}"),)),
            Panel("Lost trainers", "In an hour, those that did not leave by themselves.", "none",
                  (("sum by (how) (increase(trellis_trainers_lost_total{HERE}[1h]))", "{{how}}"),)),
            Panel("Holds that were extended", "In an hour: jobs that ran longer than they were estimated to.", "none",
                  (("sum(increase(trellis_holds_extended_total{HERE}[1h]))", "extended"),)),
        )),
        ("Calls of jobs", (
            Panel("Calls", "A second, by method and status.", "reqps",
                  (('sum by (method, status) (rate(trellis_rpc_calls_total{HERE, method=~".*(Worker|Trainer)Service/.*"}[5m]))',
                    "{{method}} {{status}}"),), width=12),
            quantiles("Time of a report", "How long the server takes to answer ReportAttempt.", "trellis_rpc_seconds",
                      ', method="/trellis.v1.WorkerService/ReportAttempt"'),
        )),
    ),
)  # fmt: skip

SERVER: Final = Board(
    "server", "servers", "The control plane's processes: calls, loops, database, object store.",
    (
        ("Calls", (
            Panel("Calls", "A second, by status.", "reqps",
                  (("sum by (status) (rate(trellis_rpc_calls_total{HERE}[5m]))", "{{status}}"),), stacked=True),
            quantiles("Time of calls", "Of all but streams.", "trellis_rpc_seconds",
                      ', method!~".*/(Watch.*|Generate|ClaimAttempts|.*Logs|Upload.*|Download.*)"'),
            Panel("Slowest methods", "99 of a hundred calls take less.", "s",
                  (('topk(10, histogram_quantile(0.99, sum by (le, method) (rate(trellis_rpc_seconds_bucket{HERE}[5m]))))',
                    "{{method}}"),)),
            Panel("Calls being answered", "By method; of those that watch, each is a stream.", "none",
                  (("sum by (method) (trellis_rpc_in_flight{HERE}) > 0", "{{method}}"),), stacked=True),
            Panel("Failures of the platform", "Calls a second that failed by its fault.", "reqps",
                  ((f"sum by (method, status) (rate(trellis_rpc_calls_total{{HERE, {_BAD_CALLS}}}[5m])) > 0",
                    "{{method}} {{status}}"),)),
            Panel("The certificate", "How long the API's is still good for; no series without TLS.", "s",
                  (("min(trellis_tls_certificate_expires{HERE} > 0) - time()", "left"),)),
        )),
        ("Loops", (
            Panel("Time of a round", "99 of a hundred rounds take less.", "s",
                  (("histogram_quantile(0.99, sum by (le, loop) (rate(trellis_control_loop_seconds_bucket{HERE}[5m])))",
                    "{{loop}}"),)),
            Panel("Rounds that failed", "A minute.", "none",
                  (("sum by (loop) (increase(trellis_control_loop_errors_total{HERE}[1m])) > 0", "{{loop}}"),)),
            Panel("Servers that hold a lease", "Of loops that one server at a time does: 1, or nobody does them.", "none",
                  (("sum by (loop) (trellis_lease_held{HERE})", "{{loop}}"),)),
        )),
        ("Database", (
            Panel("Connections", "Of all servers' pools; `most` is where calls begin to wait for one.", "none",
                  (("sum by (state) (trellis_database_connections{HERE})", "{{state}}"),)),
            quantiles("Time of a statement", "Until it is answered.", "trellis_database_statement_seconds"),
            Panel("Errors", "A second, by kind.", "none",
                  (("sum by (error) (rate(trellis_database_errors_total{HERE}[5m]))", "{{error}}"),)),
        )),
        ("Object store", (
            Panel("Time of calls", "90 of a hundred take less, by operation.", "s",
                  (("histogram_quantile(0.9, sum by (le, operation) (rate(trellis_objects_seconds_bucket{HERE}[5m])))",
                    "{{operation}}"),), width=12),
            Panel("Calls that failed", "A second, by operation.", "none",
                  (("sum by (operation) (rate(trellis_objects_errors_total{HERE}[5m]))", "{{operation}}"),), width=12),
        )),
    ),
)  # fmt: skip

BOARDS: Final = (OVERVIEW, TENANTS, QUEUE, TRAINERS, ENGINES, SERVER)


def expressions() -> list[tuple[str, str]]:
    """Where each query is, and what it asks."""
    return [
        (f"{board.name}: {panel['title']}", target["expr"])
        for board in BOARDS
        for panel in board.to_json()["panels"]
        for target in panel.get("targets", ())
    ]
