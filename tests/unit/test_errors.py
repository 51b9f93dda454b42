import pickle

import grpc
import pytest

from trellis import errors
from trellis.errors import Reason
from trellis.v1 import error_reason_pb2


def test_the_reasons_are_those_of_the_api() -> None:
    api = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert {reason.value for reason in Reason} == api


def test_every_reason_has_a_status_that_grpc_knows() -> None:
    assert set(errors.STATUS_OF_REASON) == set(Reason)
    for cls in errors.STATUS_OF_REASON.values():
        assert grpc.StatusCode[cls.STATUS]
        assert errors.CLASS_OF_STATUS[cls.STATUS] is cls


@pytest.mark.parametrize("reason", list(Reason))
def test_errors_survive_pickling(reason: Reason) -> None:
    error = errors.error_for(reason, "No.", metadata={"a": "b"}, retry_after=1.5, request_id="r-1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == "No."
    assert vars(copy) == vars(error)


def test_all_violations_are_in_one_error() -> None:
    violations = (errors.FieldViolation("a", "is wrong."), errors.FieldViolation("b", "too."))
    error = errors.InvalidArgument.for_fields(violations)
    assert error.violations == violations
    assert str(error) == "a: is wrong. b: too."
