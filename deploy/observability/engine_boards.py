"""The dashboard of engines; Ray puts `ray_` before their metrics' names."""

from typing import Final

from deploy.observability.board import Board
from deploy.observability.panel import Panel, quantiles

_E: Final = "ray_trellis_engine"


def _levels(title: str, description: str, *names: str, unit: str = "none", stacked: bool = False) -> Panel:
    """Gauges, summed over the replicas of each application."""
    queries = tuple((f"sum by (application) ({_E}_{name}{{HERE}})", f"{{{{application}}}} {name}") for name in names)
    return Panel(title, description, unit, queries, stacked=stacked)


ENGINES: Final = Board(
    "engines", "engines", "Answers of models: how quick, how many at once, with which adapters.",
    (
        ("Answers", (
            quantiles("First token", "From a request's arrival to its first token.", f"{_E}_first_token_seconds"),
            quantiles("Between tokens", "The mean of a request.", f"{_E}_next_token_seconds"),
            quantiles("Wait", "From a request's arrival to the step that began with it.", f"{_E}_queue_seconds"),
            Panel("Requests that ended", "A second, by how; ENGINE_BUSY were refused.", "reqps",
                  ((f"sum by (outcome) (rate({_E}_requests_total{{HERE}}[5m]))", "{{outcome}}"),), stacked=True),
            Panel("Tokens", "A second: prompts, of these cached, and completions.", "none",
                  ((f"sum by (kind) (rate({_E}_tokens_total{{HERE}}[5m]))", "{{kind}}"),)),
            Panel("Prompts that were remembered", "Share of prompts' tokens that needed no computing.", "percentunit",
                  (((f'sum(rate({_E}_tokens_total{{HERE, kind="cached"}}[5m])) / '
                    f'sum(rate({_E}_tokens_total{{HERE, kind="prompt"}}[5m]))'), "cached"),), most=1),
        )),
        ("Replicas", (
            _levels("Running, waiting, parked", "Answers being made, that wait, and that wait for their adapter's slot.",
                    "running_requests", "waiting_requests", "parked_requests"),
            quantiles("Answers a step", "How many answers a step worked at: the batch.", f"{_E}_step_answers", unit="none"),
            quantiles("Tokens a step", "How many tokens it computed.", f"{_E}_step_tokens", unit="none"),
            _levels("Speed", "Tokens a second of the last steps, prompts and answers together.", "tokens_per_second",
                    stacked=True),
            _levels("KV cache", "Blocks of answers, of reusable prefixes alone, of nothing.", "kv_blocks_used",
                    "kv_blocks_cached", "kv_blocks_free", stacked=True),
        )),
        ("Adapters", (
            _levels("Adapters", "In the bank beside the base, in the host's memory, and on their way there.", "bank_adapters",
                    "host_adapters", "loading_adapters"),
            Panel("Bank", "Share of its rank rows that adapters hold.", "percentunit",
                  ((f"sum by (application) ({_E}_bank_rows_used{{HERE}}) / sum by (application) ({_E}_bank_rows{{HERE}})",
                    "{{application}}"),), most=1),
            Panel("Events", "A second: fetched, failed, copied, used, evicted, dropped.", "none",
                  ((f"sum by (event) (rate({_E}_adapter_events_total{{HERE}}[5m]))", "{{event}}"),)),
            quantiles("Time to fetch one", "From the object store.", f"{_E}_adapter_load_seconds"),
        )),
    ),
)  # fmt: skip
