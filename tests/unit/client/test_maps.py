"""Maps of the API, whose keys come in another order from every process, as the SDK gives them."""

from google.protobuf import json_format

from trellis import Adapter
from trellis.client._convert import from_proto
from trellis.client.types import MetricPoint
from trellis.v1.adapter_pb2 import Adapter as AdapterMessage
from trellis.v1.tuning_job_pb2 import MetricPoint as MetricPointMessage

NAMES = [f"{number * 7 % 20:02} {'x' * number}" for number in range(20)]


def test_manifests_and_measurements_are_in_the_order_of_their_keys() -> None:
    message = AdapterMessage()
    manifest = {name: {"files": [{**dict.fromkeys(NAMES, 1.0)}], "metrics": None} for name in NAMES}
    json_format.ParseDict(manifest, message.manifest)
    read = from_proto(Adapter, message).manifest
    assert read == manifest
    assert list(read) == sorted(NAMES)
    inner = read[NAMES[3]]
    assert list(inner) == ["files", "metrics"]
    assert list(inner["files"][0]) == sorted(NAMES)
    measured = from_proto(MetricPoint, MetricPointMessage(step=1, values=dict.fromkeys(NAMES, 0.5)))
    assert list(measured.values) == sorted(NAMES)
