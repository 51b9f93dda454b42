"""Usage and the ledger."""

from collections.abc import Sequence
from typing import Any

from trellis.names import TenantName
from trellis.server.app.ledger_reading import UsageGroup
from trellis.server.app.usage import Span
from trellis.server.domain import ledger as domain
from trellis.server.domain.statement import Statement
from trellis.server.rpc.convert.enums import from_wire, to_wire
from trellis.server.rpc.convert.times import moment, timestamp
from trellis.v1 import usage_pb2 as pb


def span(message: Any) -> Span:
    """The time that a request asks for."""
    return Span(moment(message, "start_time", "start_time"), moment(message, "end_time", "end_time"))


def groups(message: pb.QueryUsageRequest) -> Sequence[UsageGroup]:
    """By what is to be summed; raises InvalidArgument for what nobody knows."""
    found = [
        from_wire(pb.QueryUsageRequest.Group, "GROUP_", UsageGroup, number, "group_by") for number in message.group_by
    ]
    return [group for group in found if group is not None]


def row(value: domain.UsageSum, currency: str) -> pb.UsageRow:
    """The sum on the wire."""
    return pb.UsageRow(
        meter=_meter(value.meter),
        quantity=value.quantity,
        amount_nanos=value.amount_nanos,
        tenant=_tenant(value.tenant),
        tuning_job=value.resource,
        adapter=value.adapter,
        base_model=value.base_model,
        time=timestamp(value.time),
        price_nanos=value.price_nanos,
        price_units=domain.PRICE_UNITS[value.meter],
        currency=currency,
    )


def entry(value: domain.LedgerEntry, currency: str) -> pb.LedgerEntry:
    """The entry on the wire."""
    return pb.LedgerEntry(
        sequence=value.sequence,
        time=timestamp(value.time),
        tenant=_tenant(value.tenant),
        kind=to_wire(pb.LedgerEntry.Kind, "KIND_", value.kind),
        meter=_meter(value.meter),
        quantity=value.quantity,
        price_nanos=value.price_nanos,
        currency=currency,
        tuning_job=value.resource,
        adapter=value.adapter,
        base_model=value.base_model,
        key=value.key,
        price_units=domain.PRICE_UNITS[value.meter],
    )


def statement(value: Statement, currency: str) -> pb.Statement:
    """The statement on the wire."""
    return pb.Statement(
        tenant=_tenant(value.tenant),
        start_time=timestamp(value.start),
        end_time=timestamp(value.end),
        lines=[
            pb.Statement.Line(
                meter=_meter(line.meter),
                quantity=line.quantity,
                price_nanos=line.price_nanos,
                amount_nanos=line.amount_nanos,
                price_units=domain.PRICE_UNITS[line.meter],
            )
            for line in value.lines
        ],
        amount_nanos=value.amount_nanos,
        currency=currency,
        entry_count=value.entry_count,
        entries_sha256=value.entries_sha256,
        sums_agree=value.sums_agree,
    )


def _meter(value: domain.Meter) -> Any:
    return to_wire(pb.Meter, "METER_", value)


def _tenant(tenant: str) -> str:
    return str(TenantName(tenant)) if tenant else ""
