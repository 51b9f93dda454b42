"""Budgets are added up in the ledger's whole units, wherever they are asked for."""

from datetime import UTC, datetime

from trellis.server.app.budgets import budget_needs, state_of
from trellis.server.domain.ledger import Meter
from trellis.server.domain.quota import Budget, BudgetMeter, Period

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECONDS = BudgetMeter.ACCELERATOR_SECONDS
MS = Meter.ACCELERATOR_MILLISECONDS


def test_needs_are_exact_where_sums_of_floats_are_not() -> None:
    assert 1001 * 1e-3 != 1.001
    assert budget_needs({MS: 1001}) == {SECONDS: 1.001}
    assert budget_needs({MS: 2**53 + 1000}) == {SECONDS: (2**53 + 1000) / 1000}
    tokens = {Meter.TRAINED_TOKENS: 5, Meter.PROMPT_TOKENS: 2, Meter.COMPLETION_TOKENS: 1}
    assert budget_needs(tokens) == {BudgetMeter.TOKENS: 8.0}
    assert budget_needs({Meter.TRAINED_TOKENS: 0}) == {}


def test_a_soft_limit_is_reached_by_the_last_millisecond_and_not_before() -> None:
    budget = Budget(SECONDS, Period.DAY, soft_limit=1, hard_limit=2)
    assert not state_of(budget, {MS: 999}, {MS: 1000}, NOW).is_over_soft
    state = state_of(budget, {MS: 1000}, {MS: 999}, NOW)
    assert state.is_over_soft
    assert (state.left, state.end_time) == (1, datetime(2026, 2, 1, tzinfo=UTC))
