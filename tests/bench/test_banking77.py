"""banking77 with ten intents: adapters of both trainers are as good on held-out lines as one of plain peft.

`tests.bench.quality` measures it on all lines and with several seeds; here are fewer lines and one seed.
"""

from pathlib import Path

import pytest

from tests.bench.banking77 import Banking77, DatasetMissingError, find_folder
from tests.bench.quality import BOUND_POINTS, PEER, WAYS, Settings, _quality_rows, _tune_plainly, _tune_with_trellis

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(2400)]
INTENTS, TRAIN_EACH, TEST_EACH = 10, 48, 20
# No warm-up, which transformers begins at a rate of zero and jobs do not.
SETTINGS = Settings(intents=INTENTS, epochs=3, learning_rate=3e-3, rank=16, seeds=1, warmup_ratio=0.0)


@pytest.fixture(scope="module")
def data() -> Banking77:
    try:
        return Banking77.read(find_folder(None)).restricted(INTENTS, TRAIN_EACH, TEST_EACH)
    except DatasetMissingError as error:
        pytest.skip(str(error).splitlines()[0])


def test_both_trainers_are_within_two_points_of_plain_peft(data: Banking77, tmp_path: Path) -> None:
    train, test = data.write(tmp_path)
    ours, served = _tune_with_trellis(SETTINGS, data.test, tuple(WAYS), (train, test), tmp_path / "adapter")
    peer, found = _tune_plainly(SETTINGS, 0, train, test, served.files)
    rows = {row.name: row for row in _quality_rows(ours, [peer])}
    for way in WAYS:
        apart = rows[f"difference, {way} less peer (within {BOUND_POINTS:g})"]
        assert abs(apart.value) <= BOUND_POINTS
        tuned, base = ours[way][0].tuned, ours[way][0].base
        assert tuned.exact > base.exact + 0.3, f"{PEER} has {peer.tuned.exact}: nothing is compared"
    assert found["adapter"]["exact_match"] == pytest.approx(ours["shared"][0].tuned.exact, abs=1e-9)
