"""docs/sizing.md holds the tables that the arithmetic gives."""

from pathlib import Path

from trellis.sizing import ACCELERATORS, BASES, Question, answer

PAGE = (Path(__file__).parents[3] / "docs" / "sizing.md").read_text()
SERVED = [("llama-3.1-8b", "l4", 8), ("llama-3.1-8b", "h100-80gb", 32), ("llama-3.1-8b", "h200", 128),
          ("llama-3.1-70b", "h200", 32), ("llama-3.1-70b", "b200", 32)]  # fmt: skip
TRAINED = [(base, gpu, rank) for base, gpu in dict.fromkeys(one[:2] for one in SERVED) for rank in (8, 16, 64)]
PRICE = 3.0


def gib(value: float | str) -> str:
    return f"{float(value) / 2**30:.1f}"


def engines() -> str:
    rows = [
        "| base | GPU | adapters in the bank | bank, GiB | tokens of KV cache | adapters add to a step |",
        "|---|---|---|---|---|---|",
    ]
    for base, gpu, adapters in SERVED:
        question = Question(BASES[base], ACCELERATORS[gpu], adapters=adapters, answers=min(adapters, 32))
        engine = answer(question)["engine"]
        if "bank_bytes" not in engine:
            rows.append(f"| {base} | {gpu} | the base does not fit | | | |")
            continue
        tokens, overhead = engine["kv_tokens"], 100 * float(engine["adapter_overhead"])
        rows.append(f"| {base} | {gpu} | {adapters} | {gib(engine['bank_bytes'])} | {tokens:,} | {overhead:.0f} % |")
    return "\n".join(rows)


def trainers() -> str:
    rows = ["| base | GPU | rank | a job, GiB | tenants at once |", "|---|---|---|---|---|"]
    for base, gpu, rank in TRAINED:
        trainer = answer(Question(BASES[base], ACCELERATORS[gpu], rank=rank))["trainer"]
        found = f"{gib(trainer['job_bytes'])} | {trainer['tenants']}" if "tenants" in trainer else "| none"
        rows.append(f"| {base} | {gpu} | {rank} | {found} |")
    return "\n".join(rows)


def jobs() -> str:
    rows = ["| base | rank | steps | adapter, MiB | checkpoints, MiB | database, MiB |", "|---|---|---|---|---|---|"]
    for base in ("llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"):
        for rank, steps in ((8, 200), (16, 1000), (64, 10_000)):
            job = answer(Question(BASES[base], ACCELERATORS["b200"], rank=rank, steps=steps))["job"]
            sizes = [job["stored_adapter_bytes"], job["checkpoints_bytes"]]
            shown = " | ".join(f"{float(size) / 2**20:,.0f}" for size in sizes)
            rows.append(f"| {base} | {rank} | {steps:,} | {shown} | {float(job['database_bytes']) / 2**20:.1f} |")
    return "\n".join(rows)


def costs() -> str:
    rows = ["| base | GPU | calls at once | prompt | completion | trained |", "|---|---|---|---|---|---|"]
    for base, gpu, adapters in SERVED:
        answers = min(adapters, 32)
        question = Question(BASES[base], ACCELERATORS[gpu], adapters=adapters, answers=answers, hour_price=PRICE)
        cost = answer(question).get("cost_of_a_million_tokens")
        if cost:
            shown = " | ".join(
                f"{float(cost[name]):.2f}" for name in ("prompt", "completion", "trained") if name in cost
            )
            rows.append(f"| {base} | {gpu} | {answers} | {shown} |")
    return "\n".join(rows)


def test_the_tables_are_those_of_the_arithmetic() -> None:
    for table in (engines(), trainers(), jobs(), costs()):
        assert table in PAGE, f"docs/sizing.md must hold this table:\n{table}"
