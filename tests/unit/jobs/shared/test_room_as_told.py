"""What the server gives a trainer by what the trainer told of its room, the trainer has room for."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given, strategies as st
from tests.lora_mixes import SHAPES

import trellis
from trellis.bases import read_base
from trellis.lora import find_groups
from trellis.server.domain.trainer import Room as Told, TrainerBase
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.snapshot import PresentTrainer, Shared
from trellis.server.scheduler.trainers import Places
from trellis.spec import Lora
from trellis_jobs.shared.memory import Room

FACTS = read_base(str(Path(trellis.__file__).parent / "base_models" / "trellis-tiny"))
BASE = TrainerBase("baseModels/tiny", "tiny", "r1", "0" * 64, "auto")
MANY = 1000

features = st.integers(1, 50)
"""Also such as leave holes between an adapter's parts."""
odd_shapes = st.tuples(features, features, features, features).map(
    lambda sizes: {
        "m.self_attn.q_proj": (sizes[1], sizes[0]),
        "m.self_attn.k_proj": (sizes[2], sizes[0]),
        "m.self_attn.v_proj": (sizes[2], sizes[0]),
        "m.mlp.down_proj": (sizes[0], sizes[3]),
    }
)
targets = st.sampled_from([(), ("q_proj",), ("q_proj", "v_proj"), ("m.mlp.down_proj",), ("k_proj", "self_attn.k_proj")])


@given(
    st.one_of(st.just(SHAPES), odd_shapes),
    st.integers(1, 60),
    st.lists(st.tuples(st.integers(1, 70), targets, st.booleans()), max_size=30),
)
def test_what_is_given_by_what_was_told_has_room(
    shapes: dict[str, tuple[int, int]], rows: int, jobs: list[tuple[int, tuple[str, ...], bool]]
) -> None:
    facts = replace(FACTS, linear_shapes=shapes)
    room = Room(MANY, rows, 128, find_groups(shapes))
    places = as_told(room)
    for number, (rank, names, is_told) in enumerate(jobs):
        work = Shared(BASE, rank, 128, facts.share_of(names) if names else 1.0)
        if places.fits(work):
            places.take(work)
            assert room.take(number, Lora(rank, target_modules=names), 128) == ""
        if is_told:
            places = as_told(room)


def as_told(room: Room) -> Places:
    """What the server makes of the trainer's word."""
    word = room.to_proto()
    told = Told(word.jobs, word.rank_rows, word.line_tokens)
    return Places(MANY, PresentTrainer("t1", BASE, Resources(1), datetime(2026, 1, 1, tzinfo=UTC), room=told))
