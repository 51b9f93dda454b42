"""UsageService."""

from trellis.server.app import usage
from trellis.server.app.context import Context
from trellis.server.app.quota_status import get_quota_status
from trellis.server.rpc.convert import usage as convert
from trellis.server.rpc.convert.quota_status import quota_status
from trellis.server.rpc.servicers.requests import ServicerContext, page_query
from trellis.v1 import usage_pb2 as pb
from trellis.v1.usage_pb2_grpc import UsageServiceServicer


class UsageServicer(UsageServiceServicer):
    """See proto/trellis/v1/usage.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def GetQuotaStatus(self, request: pb.GetQuotaStatusRequest, _: ServicerContext) -> pb.QuotaStatus:
        return quota_status(await get_quota_status(self._context, request.name))

    async def QueryUsage(self, request: pb.QueryUsageRequest, _: ServicerContext) -> pb.QueryUsageResponse:
        groups = convert.groups(request)
        page = await usage.query_usage(
            self._context, request.parent, convert.span(request), groups, page_query(request)
        )
        rows = [convert.row(item, self._currency) for item in page.items]
        return pb.QueryUsageResponse(rows=rows, next_page_token=page.next_page_token, currency=self._currency)

    async def ListLedgerEntries(
        self, request: pb.ListLedgerEntriesRequest, _: ServicerContext
    ) -> pb.ListLedgerEntriesResponse:
        page = await usage.list_entries(
            self._context, request.parent, convert.span(request), request.tuning_job, page_query(request)
        )
        return pb.ListLedgerEntriesResponse(
            entries=[convert.entry(item, self._currency) for item in page.items], next_page_token=page.next_page_token
        )

    async def GetStatement(self, request: pb.GetStatementRequest, _: ServicerContext) -> pb.Statement:
        statement = await usage.get_statement(self._context, request.name, convert.span(request))
        return convert.statement(statement, self._currency)

    @property
    def _currency(self) -> str:
        return self._context.settings.prices.currency
