"""Makes the reports on dataset versions, and says of each version whether it can be trained on."""

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import structlog

from trellis.bases import BaseModelError, read_base
from trellis.formats import FileFormat
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.reports import DatasetReport, build_report
from trellis.server.app.ports import Claim, UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState, VersionState
from trellis.tokens import ChatTokenizer

_log = structlog.get_logger(__name__)
_CLAIM = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Work:
    report: Report
    version: DatasetVersion
    base: BaseModel
    claim: Claim


class ValidateDatasets:
    """Builds one pending report a round."""

    name = "validate"

    def __init__(self, context: ControlContext, store: ObjectStore) -> None:
        self._context = context
        self._store = store

    async def once(self) -> bool:
        """One report; True if there was one."""
        work = await self._take()
        if work is None:
            return False
        done = await self._build(work)
        await self._apply(work, done)
        return True

    async def _take(self) -> _Work | None:
        context = self._context
        async with context.units() as unit:
            claim = context.claim(_CLAIM)
            report = await unit.datasets.claim_report(claim, context.now())
            if report is None:
                return None
            version = await unit.datasets.get_version(report.tenant, report.dataset_id, report.sha256)
            base = await unit.base_models.get(report.base_model.removeprefix("baseModels/"))
            if version is None or base is None:
                gone = replace(report, state=ReportState.FAILED, summary=f"{report.base_model} is gone.")
                await unit.datasets.save_report(gone, claim)
                await unit.commit()
                return None
            await unit.commit()
        return _Work(report, version, base, claim)

    async def _build(self, work: _Work) -> tuple[Report, DatasetReport | None]:
        version = work.version
        key = f"{version.key.rpartition('/')[0]}/reports/{work.base.base_model_id}.json"
        try:
            found = await asyncio.to_thread(self._read, version, work.base)
            await asyncio.to_thread(self._store.put_bytes, key, found.to_json().encode())
        except (BaseModelError, ObjectNotFoundError, ValueError) as error:
            _log.warning("report_failed", tenant=version.tenant, version=version.name, error=str(error))
            return replace(work.report, state=ReportState.FAILED, summary=f"No report could be made: {error}"), None
        done = replace(
            work.report,
            state=ReportState.DONE,
            key=key,
            valid=found.valid,
            trainable_token_count=found.trainable_tokens or 0,
            summary=found.summary,
        )
        return done, found

    def _read(self, version: DatasetVersion, base: BaseModel) -> DatasetReport:
        tokenizer = ChatTokenizer.load(Path(read_base(base.source, base.revision).path))
        with self._store.open_read(version.key) as stream:
            return build_report(
                stream,
                FileFormat(version.file_format),
                tokenizer=tokenizer,
                context_length=base.context_length,
            )

    async def _apply(self, work: _Work, outcome: tuple[Report, DatasetReport | None]) -> None:
        report, found = outcome
        async with self._context.units() as unit:
            if not await unit.datasets.save_report(report, work.claim):
                return
            if work.version.base_model == report.base_model:
                await self._say_state(unit, work.version, report, found)
            await unit.commit()
        _log.info("report_made", tenant=report.tenant, version=work.version.name, valid=report.valid)

    @staticmethod
    async def _say_state(
        unit: UnitOfWork, version: DatasetVersion, report: Report, found: DatasetReport | None
    ) -> None:
        await unit.datasets.save_version(
            replace(
                version,
                state=VersionState.READY if report.valid else VersionState.INVALID,
                kind=str(found.kind.value) if found and found.kind else "",
                line_count=found.lines if found else 0,
                summary=report.summary,
            )
        )
