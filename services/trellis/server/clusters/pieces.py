"""Pieces of an answer that have come together, handed on as one."""

from collections.abc import Iterable, Sequence

from trellis.engine_wire import MESSAGE, read_error
from trellis.errors import TrellisError
from trellis.v1.engine_pb2 import StreamTokensResponse


def gathered(
    frames: Iterable[tuple[int, bytes]], *, begins: bool = False
) -> tuple[Sequence[StreamTokensResponse], TrellisError | None]:
    """What these frames say: one piece for each of the call's answers, and the error that ends it, if one does.

    The answer that came last is the last one: the call's very last piece stays so. Where the call `begins` its first piece
    goes by itself, for the first token is to be seen as it was said.
    """
    first: list[StreamTokensResponse] = []
    pieces: dict[int, StreamTokensResponse] = {}
    for kind, content in frames:
        if kind != MESSAGE:
            return [*first, *pieces.values()], read_error(content)
        piece = StreamTokensResponse.FromString(content)
        if begins and not first:
            first.append(piece)
            continue
        index = piece.generate.index
        before = pieces.pop(index, None)
        pieces[index] = piece if before is None else _joined(before, piece)
    return [*first, *pieces.values()], None


def _joined(first: StreamTokensResponse, second: StreamTokensResponse) -> StreamTokensResponse:
    text = first.generate.text + second.generate.text
    first.MergeFrom(second)  # lists are joined, and what is said once is kept
    first.generate.text = text
    return first
