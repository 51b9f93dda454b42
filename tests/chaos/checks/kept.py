"""What was acknowledged is there, with the bytes that it had."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trellis
from tests.chaos.diary import Diary
from tests.chaos.load import BASE, PROMPTS, TOKENS, Tenant
from trellis.client.types import JobState


async def kept_faults(diary: Diary, admin: trellis.AsyncClient, tenants: list[Tenant], folder: Path) -> list[str]:
    """In sentences."""
    clients = {tenant.name: tenant.client for tenant in tenants}
    wrong = await _uploads(diary, clients, folder)
    made = [tenant.name.removeprefix("tenants/") async for tenant in admin.tenants.list()]
    wrong += [f"the tenant {name} is there {made.count(name)} times" for name in made if made.count(name) > 1]
    for name, acknowledged in diary.tenants.items():
        if acknowledged and name not in made:
            wrong.append(f"the tenant {name} was acknowledged and is not there")
    wrong += await _aliases(diary, clients)
    for tenant in tenants:
        wrong += await _adapters(tenant, folder)
    return wrong + await _answers(diary, clients)


async def _uploads(diary: Diary, clients: dict[str, trellis.AsyncClient], folder: Path) -> list[str]:
    wrong = []
    for uploaded in diary.uploads:
        client, target = clients[uploaded.tenant], folder / "downloaded"
        version = await client.datasets.wait(uploaded.name, timeout=60)
        if version.state != "READY":
            wrong.append(f"{uploaded.name} is {version.state}: {version.summary}")
        await client.datasets.download(uploaded.name, target)
        if target.read_bytes() != uploaded.data:
            wrong.append(f"{uploaded.name} has other bytes than were uploaded")
        target.unlink()
    return wrong


async def _aliases(diary: Diary, clients: dict[str, trellis.AsyncClient]) -> list[str]:
    wrong = []
    for (tenant, alias), adapter in diary.aliases.items():
        if adapter is not None and (found := (await clients[tenant].aliases.get(alias)).adapter) != adapter:
            wrong.append(f"{tenant}'s alias {alias} points at {found}, not at {adapter}")
    return wrong


async def _adapters(tenant: Tenant, folder: Path) -> list[str]:
    """Each adapter of a job that succeeded has its files' bytes and answers; of each kind of bytes one is asked."""
    wrong, asked = [], set[str]()
    async for job in tenant.client.jobs.list(states=[JobState.SUCCEEDED]):
        adapter = await tenant.client.adapters.get(job.adapter)
        assert adapter.manifest is not None
        files = {path.name: path for path in await tenant.client.adapters.download(adapter.name, folder / "adapter")}
        for name, sha256 in hashes_of(adapter.manifest).items():
            if hashlib.sha256(files[name].read_bytes()).hexdigest() != sha256:
                wrong.append(f"{adapter.name}: {name} has other bytes than its manifest says")
        for path in files.values():
            path.unlink()
        if (kind := str(hashes_of(adapter.manifest))) not in asked:
            asked.add(kind)
            await tenant.client.adapters.deploy(adapter.name, timeout=120)
            answer = await tenant.client.generate(adapter.name, PROMPTS[0], max_tokens=3, timeout=60)
            if answer.adapter_digest != adapter.digest:
                wrong.append(f"{adapter.name} was asked and {answer.adapter_digest} answered")
    return wrong


def hashes_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Of an adapter's files, by their names and in the order of these: messages have them in another from each server."""
    files = manifest["files"]
    assert isinstance(files, dict)
    return {name: said["sha256"] if isinstance(said, dict) else said for name, said in sorted(files.items())}


async def _answers(diary: Diary, clients: dict[str, trellis.AsyncClient]) -> list[str]:
    """What was answered in the storm is what is answered in calm."""
    wrong, calm = [], dict[tuple[str, str, str], tuple[int, ...]]()
    for asked in diary.asked:
        key = asked.tenant if asked.model != BASE else "", asked.digest, asked.prompt
        if key not in calm:
            client = clients[asked.tenant]
            if asked.model != BASE:
                await client.adapters.deploy(asked.model, timeout=120)
            said = await client.generate(asked.model, asked.prompt, temperature=0.0, max_tokens=TOKENS, timeout=60)
            calm[key] = said.token_ids
        if asked.token_ids != calm[key]:
            wrong.append(f"{asked.model} answered {asked.token_ids} in the storm and {calm[key]} in calm")
    return wrong
