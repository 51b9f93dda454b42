"""What tenants use, as a test says; sums and statements are computed as the server does."""

import hashlib
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from tests.fake_server.accounts import Tenants, found
from tests.fake_server.pages import page_of
from trellis.statements import amount_nanos, entry_line
from trellis.v1 import usage_pb2 as pb
from trellis.v1.usage_pb2_grpc import UsageServiceServicer

_Group = pb.QueryUsageRequest.Group


class Usage(UsageServiceServicer):
    def __init__(self, tenants: Tenants) -> None:
        self.tenants = tenants
        self.limits: list[pb.LimitStatus] = []
        self.entries: list[pb.LedgerEntry] = []
        self.sums_agree = True
        self.hidden: set[int] = set()
        """Sequences of entries that the list leaves out."""

    def GetQuotaStatus(self, request: Any, context: Any) -> Any:
        tenant = found(self.tenants.tenants, request.name, context)
        return pb.QuotaStatus(tenant=tenant.name, quota=tenant.quota, limits=self.limits)

    def QueryUsage(self, request: Any, context: Any) -> Any:
        sums: Counter[tuple[Any, ...]] = Counter()
        for one in self._within(request, request.parent):
            if one.kind == pb.LedgerEntry.KIND_SETTLE:
                sums[(*_groups(one, request.group_by), one.meter, one.price_nanos, one.price_units)] += one.quantity
        rows = [_row(key, quantity) for key, quantity in sorted(sums.items())]
        page, token = page_of(rows, request)
        return pb.QueryUsageResponse(rows=page, next_page_token=token, currency="EUR")

    def ListLedgerEntries(self, request: Any, context: Any) -> Any:
        entries = [one for one in self._within(request, request.parent) if request.tuning_job in {"", one.tuning_job}]
        entries = [one for one in entries if one.sequence not in self.hidden]
        page, token = page_of(entries, request)
        return pb.ListLedgerEntriesResponse(entries=page, next_page_token=token)

    def GetStatement(self, request: Any, context: Any) -> Any:
        entries = self._within(request, request.name)
        digest, sums = hashlib.sha256(), Counter[tuple[Any, ...]]()
        for one in entries:
            digest.update(_line(one))
            if one.kind == pb.LedgerEntry.KIND_SETTLE:
                sums[one.meter, one.price_nanos, one.price_units] += one.quantity
        lines = [
            pb.Statement.Line(
                meter=key[0],
                quantity=quantity,
                price_nanos=key[1],
                price_units=key[2],
                amount_nanos=amount_nanos(quantity, *key[1:]),
            )
            for key, quantity in sorted(sums.items())
        ]
        return pb.Statement(
            tenant=request.name,
            start_time=request.start_time,
            end_time=request.end_time,
            lines=lines,
            amount_nanos=sum(line.amount_nanos for line in lines),
            currency="EUR",
            entry_count=len(entries),
            entries_sha256=digest.hexdigest(),
            sums_agree=self.sums_agree,
        )

    def _within(self, request: Any, tenant: str) -> list[pb.LedgerEntry]:
        start = _time(request.start_time) if request.HasField("start_time") else datetime.min.replace(tzinfo=UTC)
        end = _time(request.end_time) if request.HasField("end_time") else datetime.max.replace(tzinfo=UTC)
        entries = [
            one for one in self.entries if tenant in {"tenants/-", one.tenant} and start <= _time(one.time) < end
        ]
        return sorted(entries, key=lambda one: (_time(one.time), one.sequence))


def _time(stamp: Any) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)  # type: ignore[no-any-return]


def _groups(one: pb.LedgerEntry, groups: Any) -> tuple[Any, ...]:
    moment = _time(one.time).replace(minute=0, second=0, microsecond=0)
    if _Group.GROUP_HOUR not in groups:
        moment = moment.replace(hour=0) if _Group.GROUP_DAY in groups else datetime.min.replace(tzinfo=UTC)
    fields = {
        "tenant": _Group.GROUP_TENANT,
        "tuning_job": _Group.GROUP_TUNING_JOB,
        "adapter": _Group.GROUP_ADAPTER,
        "base_model": _Group.GROUP_BASE_MODEL,
    }
    return (moment, *(getattr(one, field) if group in groups else "" for field, group in fields.items()))


def _row(key: tuple[Any, ...], quantity: int) -> pb.UsageRow:
    moment, tenant, tuning_job, adapter, base_model, meter, price, units = key
    row = pb.UsageRow(
        meter=meter,
        quantity=quantity,
        amount_nanos=amount_nanos(quantity, price, units),
        tenant=tenant,
        tuning_job=tuning_job,
        adapter=adapter,
        base_model=base_model,
        price_nanos=price,
        price_units=units,
        currency="EUR",
    )
    if moment.year > 1:
        row.time.FromDatetime(moment)
    return row


def _line(one: pb.LedgerEntry) -> bytes:
    return entry_line(
        one.sequence,
        _time(one.time),
        one.tenant,
        pb.LedgerEntry.Kind.Name(one.kind).removeprefix("KIND_"),
        pb.Meter.Name(one.meter).removeprefix("METER_"),
        one.quantity,
        one.price_nanos,
        one.tuning_job,
        one.adapter,
        one.base_model,
        one.key,
    )
