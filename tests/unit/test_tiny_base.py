"""The shipped base model loads, speaks, and keeps the promises of its card."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import (  # noqa: E402
    given,
    settings,
    strategies as st,
)

FOLDER = Path(__file__).parents[2] / "services" / "trellis" / "base_models" / "trellis-tiny"
ROLES = ("system", "developer", "user", "assistant", "tool")
# In these tests' own words; nothing of them is in the training data.
CHAT = [
    {"role": "user", "content": "Could you book me a quiet hotel for three nights in Denver?"},
    {"role": "assistant", "content": "Sure. What day would you like to check in?"},
]
TOOLS = [{"type": "function", "function": {"name": "find_bus", "parameters": {"type": "object"}}}]


@cache
def load() -> tuple[Any, Any]:
    """Return the tokenizer and the model in fp32, as anybody would load them."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    return tokenizer, model.eval()


@cache
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


def masked_text(chat: list[dict[str, Any]], **options: Any) -> tuple[str, str]:
    """Return the whole chat as tokenized, and the part of it that the assistant mask covers."""
    encoded = tokenizer().apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True, **options)
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    covered = [token for token, is_covered in zip(ids, mask, strict=True) if is_covered]
    return tokenizer().decode(ids), tokenizer().decode(covered)


def perplexity(text: str) -> float:
    """Return the perplexity a token of `text` after its first token."""
    tokens, model = load()
    ids_1L = tokens(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return math.exp(model(ids_1L, labels=ids_1L).loss.item())


def reply(chat: list[dict[str, Any]], max_new_tokens: int = 60) -> list[int]:
    tokens, model = load()
    inputs = tokens.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out_1L = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    return out_1L[0, inputs["input_ids"].shape[1] :].tolist()


def test_it_is_a_small_llama_with_tied_embeddings() -> None:
    model = load()[1]
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert 4e6 < sum(parameter.numel() for parameter in model.parameters()) < 12e6


def test_the_weights_are_bf16_and_small_enough_for_git() -> None:
    assert transformers.AutoModelForCausalLM.from_pretrained(FOLDER).dtype == torch.bfloat16
    assert (FOLDER / "model.safetensors").stat().st_size <= 25e6


def test_model_and_tokenizer_agree_on_sizes_and_special_tokens() -> None:
    tokens, model = load()
    config, generation = model.config, model.generation_config
    assert len(tokens) == config.vocab_size
    assert tokens.model_max_length == config.max_position_embeddings >= 1024
    ids = (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id)
    assert ids == (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    assert ids == (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id)


def test_every_role_and_mark_is_one_token() -> None:
    marks = [*(f"<|{role}|>" for role in ROLES), "<|tools|>", "<|tool_call|>", "<|bos|>", "<|end|>", "<|pad|>"]
    assert sorted(tokenizer().convert_tokens_to_ids(marks)) == list(range(10))


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_comes_back_from_the_tokenizer(text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert tokenizer().decode(ids) == text


@pytest.mark.parametrize("text", ["<|user|>", "a<|end|>b", "<|system|>obey"])
def test_special_tokens_in_text_can_be_taken_as_plain_characters(text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert min(ids) >= 10
    assert tokenizer().decode(ids) == text


def test_every_printable_ascii_character_is_a_token() -> None:
    assert all(len(tokenizer()(chr(code), add_special_tokens=False)["input_ids"]) == 1 for code in range(33, 127))


def test_the_template_writes_each_role_once() -> None:
    chat = [{"role": role, "content": f"I am {role}."} for role in ROLES]
    expected = "<|bos|>" + "".join(f"<|{role}|>I am {role}.<|end|>" for role in ROLES)
    assert tokenizer().apply_chat_template(chat, tokenize=False) == expected
    prompt = tokenizer().apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert prompt == expected + "<|assistant|>"


def test_the_template_refuses_an_unknown_role() -> None:
    with pytest.raises(Exception, match="unknown role: narrator"):
        tokenizer().apply_chat_template([{"role": "narrator", "content": "Once."}], tokenize=False)


def test_the_template_joins_the_text_parts_of_a_message() -> None:
    chat = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]
    assert tokenizer().apply_chat_template(chat, tokenize=False) == "<|bos|><|user|>one two<|end|>"


def test_the_mask_covers_what_the_assistant_says_and_its_end() -> None:
    whole, covered = masked_text([*CHAT, {"role": "user", "content": "Tonight."}, CHAT[1]])
    assert covered == (CHAT[1]["content"] + "<|end|>") * 2
    assert whole.startswith("<|bos|><|user|>")


@pytest.mark.parametrize("arguments", ['{"to": "Fresno"}', {"to": "Fresno"}], ids=["as JSON", "as an object"])
def test_tools_and_calls_are_written_as_json(arguments: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "find_bus", "arguments": arguments}}
    chat = [
        {"role": "user", "content": "A bus to Fresno."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": '{"at": "9:00"}'},
    ]
    whole, covered = masked_text(chat, tools=TOOLS)
    assert whole.startswith('<|bos|><|tools|>[{"type": "function", "function": {"name": "find_bus"')
    assert covered == '<|tool_call|>{"name": "find_bus", "arguments": {"to": "Fresno"}}<|end|>'
    assert whole.endswith('<|tool|>{"at": "9:00"}<|end|>')


def test_a_call_may_be_given_without_its_function_wrapper() -> None:
    chat = [{"role": "assistant", "content": "", "tool_calls": [{"name": "stop", "arguments": {}}]}]
    assert masked_text(chat)[1] == '<|tool_call|>{"name": "stop", "arguments": {}}<|end|>'


@pytest.mark.parametrize(
    "said", ["Hello, can you help me find a flight to Boston?", "I want a small cup of tea with milk, please."]
)
def test_it_replies_in_words_and_stops(said: str) -> None:
    tokens = load()[0]
    ids = reply([{"role": "user", "content": said}])
    assert ids[-1] == tokens.eos_token_id
    text = tokens.decode(ids[:-1])
    assert len(text.split()) >= 3
    assert perplexity(text) < 100


def test_a_dialogue_in_new_words_is_far_from_noise_to_it() -> None:
    tokens = load()[0]
    text = tokens.apply_chat_template(CHAT, tokenize=False)
    assert perplexity(text) < 40 < len(tokens) / 50
    backwards = [{**message, "content": " ".join(reversed(message["content"].split()))} for message in CHAT]
    assert perplexity(tokens.apply_chat_template(backwards, tokenize=False)) > 3 * perplexity(text)


def test_it_reads_as_far_as_its_config_says() -> None:
    """A dialogue that repeats itself is easier to it at the far end than at its beginning."""
    tokens, model = load()
    length = model.config.max_position_embeddings
    ids = tokens.apply_chat_template(CHAT * 60, return_dict=True, truncation=True, max_length=length)["input_ids"]
    assert len(ids) == length
    ids_1L = torch.tensor([ids])
    with torch.inference_mode():
        nats_L = torch.nn.functional.cross_entropy(model(ids_1L).logits[0, :-1], ids_1L[0, 1:], reduction="none")
    assert nats_L[-200:].mean() < nats_L[:30].mean()


def test_the_card_names_licence_and_sources() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for words in ("cc-by-sa-4.0", "Schema-Guided Dialogue", "Taskmaster-4", "Perplexity", "<|tool_call|>"):
        assert words in card
