"""`trellis admin size`, as its users run it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trellis.cli.main import trellis
from trellis.cli.size import Bytes


def sized(*arguments: str) -> Result:
    return CliRunner().invoke(trellis, ["admin", "size", *arguments])


def test_a_table_ends_with_the_settings_to_copy() -> None:
    done = sized("--base", "llama-3.1-8b", "--gpu", "h200", "--hour-price", "3")
    assert done.exit_code == 0, done.output
    assert "adapter overhead             13.9 %" in done.output
    assert done.output.endswith("TRELLIS_TRAINER_RANK_ROWS=1168\nTRELLIS_TRAINER_MAX_JOBS=73\n")


def test_narrow_adapters_take_their_part() -> None:
    done = sized(
        "--base", "llama-3.1-8b", "--gpu", "h200", "--target", "q_proj", "--target", "v_proj", "--format", "json"
    )
    found = json.loads(done.output)
    assert found["model"]["adapter_parameters"] == 16 * 32 * (4096 + 4096 + 4096 + 1024)
    assert found["trainer"]["tenants"] == 454
    assert found["settings"]["TRELLIS_ENGINE_BANK_ROWS"] == 167
    assert "'--target'" in sized("--base", "llama-3.1-8b", "--target", "lm_head").output


def test_programs_get_whole_numbers() -> None:
    done = sized("--base", "llama-3.1-8b", "--gpu", "h200", "--format", "json")
    found = json.loads(done.output)
    assert found["engine"]["kv_bytes_per_token"] == 131_072
    assert "cost_of_a_million_tokens" not in found


def test_a_config_and_a_gpu_of_one_s_own(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    flags = ("--gpu-memory", "2GiB", "--gpu-bandwidth", "100GB", "--gpu-tflops", "10", "--format", "json")
    of_folder, of_file = (sized("--config", str(path), *flags) for path in (tmp_path, tmp_path / "config.json"))
    assert of_folder.output == of_file.output
    assert json.loads(of_file.output)["engine"]["fits"] == "Yes."


def test_what_can_t_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[]")
    assert "config.json' can't be used" in sized("--config", str(tmp_path)).output
    assert "either with --base, or with --config" in sized().output
    assert "'much' is not a size like 80GiB" in sized("--base", "llama-3.1-8b", "--gpu-memory", "much").output


@pytest.mark.parametrize(
    ("text", "value"), [("80GiB", 80 * 2**30), ("24GB", 24e9), ("1.5k", 1500), ("7", 7), ("2TB", 2e12)]
)
def test_sizes(text: str, value: float) -> None:
    assert Bytes().convert(text, None, None) == value
