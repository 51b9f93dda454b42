"""Makes the reports on dataset versions, and says of each version whether it can be trained on."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import structlog

from trellis.bases import BaseModelError, BaseModelUnreachableError, read_base
from trellis.errors import TrellisError
from trellis.formats import FileFormat
from trellis.objects import ObjectNotFoundError, ObjectStore
from trellis.reports import DatasetReport, build_report
from trellis.server.app.ports import Claim, UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.control.metrics import REPORT_SECONDS, REPORTS
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion, Report, ReportState, VersionState
from trellis.tokens import ChatTokenizer

_log = structlog.get_logger(__name__)
_CLAIM = timedelta(seconds=10)
_RENEWALS_A_CLAIM = 3
_YIELD_SECONDS = 0.001


class _StoppedError(Exception):
    """The report is not to be made here any more."""


@dataclass(frozen=True, slots=True)
class _Work:
    report: Report
    version: DatasetVersion
    base: BaseModel
    claim: Claim
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set when the claim is lost or the server stops; the building thread then ends soon."""

    def check(self, _lines: int = 0) -> None:
        """Called by the building thread every so many lines: lets the event loop have its turn."""
        if self.stopped.is_set():
            raise _StoppedError
        time.sleep(_YIELD_SECONDS)


class ValidateDatasets:
    """Builds one pending report a round, in a thread; its claim is short, and renewed while the thread reads.

    Several of these may run side by side, so that a large file keeps no small one waiting.
    """

    name = "validate"

    def __init__(self, context: ControlContext, store: ObjectStore, claim: timedelta = _CLAIM) -> None:
        self._context = context
        self._store = store
        self._claim = claim

    async def once(self) -> bool:
        """One report; True if there was one."""
        work = await self._take()
        if work is None:
            return False
        begun = time.perf_counter()
        try:
            async with self._holding(work):
                outcome = await self._build(work)
        except _StoppedError:
            _log.warning("report_claim_lost", tenant=work.report.tenant, version=work.version.name)
            return True
        REPORT_SECONDS.observe(time.perf_counter() - begun)
        await self._apply(work, *outcome)
        return True

    async def _take(self) -> _Work | None:
        context = self._context
        async with context.units() as unit:
            claim = context.claim(self._claim)
            report = await unit.datasets.claim_report(claim, context.now())
            if report is None:
                return None
            version = await unit.datasets.get_version(report.tenant, report.dataset_id, report.sha256)
            base = await unit.base_models.get(report.base_model.removeprefix("baseModels/"))
            assert version is not None, "a version's reports go with it"
            if base is None:
                gone = _failed(report, f"{report.base_model} is gone.")
                await self._save(unit, version, gone, None, claim)
                await unit.commit()
                return None
            await unit.commit()
        return _Work(report, version, base, claim)

    @contextlib.asynccontextmanager
    async def _holding(self, work: _Work) -> AsyncIterator[None]:
        """Renews the claim meanwhile; whatever ends the block ends the thread's work too."""
        done = asyncio.Event()
        renewing = asyncio.create_task(self._renew(work, done))
        try:
            yield
        finally:
            work.stopped.set()
            done.set()
            await renewing

    async def _renew(self, work: _Work, done: asyncio.Event) -> None:
        pause = self._claim.total_seconds() / _RENEWALS_A_CLAIM
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), pause)
            if done.is_set():
                return
            try:
                if not await self._renew_once(work):
                    work.stopped.set()
                    return
            except TrellisError as error:
                # The database is away for a moment. If it is for longer the claim runs out, which the end will show.
                _log.warning("report_claim_not_renewed", version=work.version.name, why=str(error))

    async def _renew_once(self, work: _Work) -> bool:
        renewed = Claim(work.claim.token, self._context.now() + self._claim)
        async with self._context.units() as unit:
            held = await unit.datasets.renew_report(work.report, work.claim, renewed)
            await unit.commit()
        return held

    async def _build(self, work: _Work) -> tuple[Report, DatasetReport | None]:
        version = work.version
        key = f"{version.key.rpartition('/')[0]}/reports/{work.base.base_model_id}.json"
        try:
            found = await asyncio.to_thread(self._read, work)
            await asyncio.to_thread(self._store.put_bytes, key, found.to_json().encode())
        except (_StoppedError, BaseModelUnreachableError):
            raise  # may pass: the report is made later, or elsewhere
        except (BaseModelError, ObjectNotFoundError, ValueError) as error:
            _log.warning("report_failed", tenant=version.tenant, version=version.name, error=str(error))
            return _failed(work.report, f"No report could be made: {error}"), None
        done = replace(
            work.report,
            state=ReportState.DONE,
            key=key,
            valid=found.valid,
            trainable_token_count=found.trainable_tokens or 0,
            token_count=found.tokens or 0,
            summary=found.summary,
        )
        return done, found

    def _read(self, work: _Work) -> DatasetReport:
        tokenizer = ChatTokenizer.load(Path(read_base(work.base.source, work.base.revision).path))
        with self._store.open_read(work.version.key) as stream:
            return build_report(
                stream,
                FileFormat(work.version.file_format),
                tokenizer=tokenizer,
                context_length=work.base.context_length,
                progress=work.check,
            )

    async def _apply(self, work: _Work, report: Report, found: DatasetReport | None) -> None:
        async with self._context.units() as unit:
            saved = await self._save(unit, work.version, report, found, work.claim)
            left_over = not saved and await self._is_gone(unit, work.version)
            await unit.commit()
        if left_over and report.key:
            await self._context.objects.run("delete", report.key)
        if saved:
            REPORTS.labels("failed" if found is None else "valid" if report.valid else "invalid").inc()
            _log.info("report_made", tenant=report.tenant, version=work.version.name, valid=report.valid)

    @staticmethod
    async def _is_gone(unit: UnitOfWork, version: DatasetVersion) -> bool:
        return await unit.datasets.get_version(version.tenant, version.dataset_id, version.sha256) is None

    @staticmethod
    async def _save(
        unit: UnitOfWork, version: DatasetVersion, report: Report, found: DatasetReport | None, claim: Claim
    ) -> bool:
        """Save the report, and the version's state if it is the report that counts; False if the claim was lost."""
        if not await unit.datasets.save_report(report, claim):
            return False
        if version.base_model == report.base_model:
            await unit.datasets.save_version(_judged(version, report, found))
        return True


def _failed(report: Report, summary: str) -> Report:
    return replace(report, state=ReportState.FAILED, summary=summary)


def _judged(version: DatasetVersion, report: Report, found: DatasetReport | None) -> DatasetVersion:
    return replace(
        version,
        state=VersionState.READY if report.valid else VersionState.INVALID,
        kind=str(found.kind.value) if found and found.kind else "",
        line_count=found.lines if found else 0,
        summary=report.summary,
    )
