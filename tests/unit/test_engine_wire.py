import pytest
from hypothesis import given, strategies as st

from trellis.engine_wire import MESSAGE, STATUS, FrameReader, WireError, error_frame, frame, read_error
from trellis.errors import CLASS_OF_STATUS, FieldViolation, TrellisError


@given(frames=st.lists(st.tuples(st.sampled_from([MESSAGE, STATUS]), st.binary(max_size=20))), size=st.integers(1, 30))
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(frame(kind, content) for kind, content in frames)
    reader = FrameReader()
    found = [f for start in range(0, len(data), size) for f in reader.push(data[start : start + size])]
    assert found == frames


@pytest.mark.parametrize("data", [b"<html>", frame(7, b""), b"\x00\xff\xff\xff\xff"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(FrameReader().push(data))


@pytest.mark.parametrize("cls", CLASS_OF_STATUS.values())
@pytest.mark.parametrize("retry_after", [None, 0.0, 1.5])
def test_errors_survive(cls: type[TrellisError], retry_after: float | None) -> None:
    violations = (FieldViolation("a.b", "No."),)
    error = cls("ENGINE_BUSY", "Wait.", metadata={"k": "v"}, violations=violations, retry_after=retry_after)
    ((kind, content),) = FrameReader().push(error_frame(error))
    assert kind == STATUS
    read = read_error(content)
    assert type(read) is cls
    assert vars(read) == vars(error)
