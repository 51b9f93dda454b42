from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jsonschema
import pytest
import torch
from tests.engine_calls import alone, drain, ids_of, text_of
from tests.workshop import Workshop

from trellis.engine import AdapterRef, FinishReason, GrammarCompiler, Output, Request, ResponseFormat, Sampling
from trellis.engine.grammar import MAX_SCHEMA_BYTES, Grammar, allowed
from trellis.engine.sampler import Choice, Sampler, choose
from trellis.errors import InvalidArgument
from trellis.tokens import ChatTokenizer
from trellis.tokens.folder import read_tokenizer_files

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
SAMPLED = Sampling(seed=0)
TIGHT = {"x-guidance": {"whitespace_flexible": False}}
SCHEMAS = (
    PERSON,
    {"enum": ["yes", "no", "größer", "日本", None, 3]},
    {"type": "boolean"},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "string", "pattern": "^[a-f]{2,4}-[0-9]+$", "maxLength": 12},
    {"type": "string", "format": "date"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3, **TIGHT},
    {"anyOf": [{"const": {"kind": "point", "at": [1, 2]}}, {"type": "null"}], **TIGHT},
    {
        "$defs": {"leaf": {"type": "null"}, "twig": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1}}
        | {"tree": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"$ref": "#/$defs/twig"}]}},
        "$ref": "#/$defs/tree",
        **TIGHT,
    },
    {"type": "string", "minLength": 3, "maxLength": 6},
)


@pytest.fixture(scope="module")
def compiler(workshop: Workshop) -> GrammarCompiler:
    return GrammarCompiler(workshop.tokenizer)


def bound_to(schema: object) -> ResponseFormat:
    return ResponseFormat(json.dumps(schema))


def follow(grammar: Grammar, tokenizer: ChatTokenizer, text: str) -> None:
    """Say the text, each token of which must be allowed."""
    for token in tokenizer.encode_text(text):
        assert allowed([grammar], tokenizer.vocab_size)[0, token], text
        grammar.accept(token)


def answers(
    workshop: Workshop,
    wanted: ResponseFormat | None,
    sampling: Sampling = SAMPLED,
    n: int = 1,
    stop: tuple[str, ...] = (),
) -> list[tuple[str, FinishReason | None]]:
    prompt = tuple(workshop.tokenizer.encode_text("say it"))
    request = Request("r", prompt, sampling=sampling, max_tokens=80, stop=stop, n=n, response_format=wanted)
    engine = workshop.engine()
    engine.submit(request)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert not any(output.error for output in outputs)
    pieces: list[list[Output]] = [[o for o in outputs if o.index == index] for index in range(request.n)]
    return [("".join(o.text for o in answer), answer[-1].finish_reason) for answer in pieces]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:30])
@pytest.mark.parametrize("sampling", [SAMPLED, Sampling(temperature=0), Sampling(seed=3, top_k=2, temperature=2)])
def test_whatever_the_model_is_its_answers_fit_the_schema(
    workshop: Workshop, schema: dict[str, object], sampling: Sampling
) -> None:
    for text, reason in answers(workshop, bound_to(schema), sampling=sampling, n=4):
        if reason is not FinishReason.LENGTH:
            assert reason is FinishReason.STOP
            jsonschema.validate(json.loads(text), schema)


def test_answers_of_adapters_fit_each_its_own_schema_in_one_batch(
    workshop: Workshop, adapters: list[AdapterRef]
) -> None:
    prompt = tuple(workshop.tokenizer.encode_text("say it"))
    schemas = [SCHEMAS[number % len(SCHEMAS)] for number in range(12)]
    requests = [
        Request(
            str(number),
            prompt,
            adapter=[None, *adapters][number % 4],
            tenant="ab"[number % 2],
            sampling=Sampling(seed=number),
            max_tokens=80,
            response_format=bound_to(schema),
        )
        for number, schema in enumerate(schemas)
    ]
    engine = workshop.engine()
    for each in requests:
        engine.submit(each)
    together = drain(engine)
    whole = 0
    for each, schema in zip(requests, schemas, strict=True):
        outputs = together[each.request_id]
        assert not outputs[-1].error
        if outputs[-1].finish_reason is FinishReason.STOP:
            whole += 1
            jsonschema.validate(json.loads(text_of(outputs)), schema)
        assert ids_of(outputs) == ids_of(alone(workshop, each)), "whatever else is in the batch"
    assert whole > len(requests) / 2


def test_most_answers_of_a_bounded_schema_are_whole(workshop: Workshop) -> None:
    reasons = [reason for schema in SCHEMAS for _, reason in answers(workshop, bound_to(schema), n=8)]
    assert reasons.count(FinishReason.STOP) > len(reasons) / 2


def test_any_object_is_an_object(workshop: Workshop) -> None:
    found = [
        answer for seed in range(5) for answer in answers(workshop, ResponseFormat(), sampling=Sampling(seed=seed), n=8)
    ]
    whole = [json.loads(text) for text, reason in found if reason is FinishReason.STOP]
    assert all(text.startswith("{") for text, _ in found)
    assert whole
    assert all(isinstance(value, dict) for value in whole)


def test_a_free_answer_beside_it_is_as_it_is_alone(workshop: Workshop) -> None:
    alone = answers(workshop, None)
    engine = workshop.engine()
    prompt = tuple(workshop.tokenizer.encode_text("say it"))
    free = Request("free", prompt, sampling=SAMPLED, max_tokens=80)
    engine.submit(free)
    engine.submit(replace(free, request_id="bound", response_format=bound_to(PERSON)))
    texts = {"free": "", "bound": ""}
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] += output.text
    assert texts["free"] == alone[0][0]
    assert texts["bound"].startswith('{"name":"')


def test_a_stop_string_ends_a_bound_answer_too(workshop: Workshop) -> None:
    [(text, reason)] = answers(workshop, bound_to(PERSON), stop=('"age"',))
    assert reason is FinishReason.STOP
    assert text.startswith('{"name":"')
    assert text.endswith(",")


def test_the_end_is_allowed_only_when_the_answer_is_complete(workshop: Workshop, compiler: GrammarCompiler) -> None:
    tokenizer = workshop.tokenizer
    grammar = compiler.compile(bound_to({"enum": ["ab"]}))
    (end,) = tokenizer.eos_ids
    for piece in '"ab"':
        assert not grammar.is_complete
        assert not allowed([grammar], tokenizer.vocab_size)[0, end]
        follow(grammar, tokenizer, piece)
    assert grammar.is_complete
    assert allowed([grammar], tokenizer.vocab_size)[0].nonzero().flatten().tolist() == [end]
    grammar.accept(end)
    assert grammar.error is None


def test_characters_may_be_spread_over_tokens(workshop: Workshop, compiler: GrammarCompiler) -> None:
    tokenizer = workshop.tokenizer
    grammar = compiler.compile(bound_to({"enum": ["日本", "größer"]}))
    tokens = tokenizer.encode_text('"日本"')
    assert len(tokens) == 8
    for token in tokens:
        assert allowed([grammar], tokenizer.vocab_size)[0, token]
        grammar.accept(token)
    assert grammar.is_complete


def test_special_tokens_are_no_text(workshop: Workshop, compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(bound_to({"type": "string"}))
    follow(grammar, workshop.tokenizer, '"')
    mask = allowed([grammar], workshop.tokenizer.vocab_size)[0]
    assert mask.any()
    assert not mask[:6].any()


def test_every_token_that_ends_an_answer_will_do(workshop: Workshop) -> None:
    files = replace(read_tokenizer_files(workshop.facts.path), eos_ids=(2, 4))
    grammar = GrammarCompiler(ChatTokenizer(files)).compile(bound_to({"const": 1}))
    follow(grammar, workshop.tokenizer, "1")
    assert allowed([grammar], 300)[0].nonzero().flatten().tolist() == [2, 4]


def test_a_model_without_an_end_is_refused(workshop: Workshop) -> None:
    files = replace(read_tokenizer_files(workshop.facts.path), template=None, named_tokens={}, eos_ids=())
    with pytest.raises(InvalidArgument, match="no token that ends"):
        GrammarCompiler(ChatTokenizer(files)).compile(ResponseFormat())


def test_logits_may_be_wider_than_the_tokenizer(workshop: Workshop, compiler: GrammarCompiler) -> None:
    logits = torch.full((2, 600), 0.0)
    logits[:, 300:] = 9.0
    grammars = [compiler.compile(bound_to({"type": "boolean"})), None]
    bound, free = choose(logits, [Sampler(Sampling(temperature=0), None, grammar=grammar) for grammar in grammars])
    assert isinstance(bound, Choice)
    assert isinstance(free, Choice)
    assert workshop.tokenizer.decode([bound.token_id]) in "tf"
    assert free.token_id == 300


def test_grammars_of_one_schema_do_not_share_their_place(workshop: Workshop, compiler: GrammarCompiler) -> None:
    first, second = (compiler.compile(bound_to({"enum": ["ab", "cd"]})) for _ in range(2))
    follow(first, workshop.tokenizer, '"a')
    follow(second, workshop.tokenizer, '"cd"')
    masks = allowed([first, second], workshop.tokenizer.vocab_size)
    assert workshop.tokenizer.decode(masks[0].nonzero().flatten().tolist()) == "b"
    assert masks[1].nonzero().flatten().tolist() == [2]


def test_schemas_can_be_compiled_in_threads(compiler: GrammarCompiler) -> None:
    wanted = [bound_to({"type": "string", "maxLength": n % 90}) for n in range(300)]
    with ThreadPoolExecutor(8) as pool:
        grammars = list(pool.map(compiler.compile, wanted))
    assert allowed(grammars, 262).any(dim=1).all()
    assert len(compiler._compiled) <= 64


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "Expecting property name"),
        ("[1]", "no JSON object"),
        ("", "Expecting value"),
        ("false", "no JSON object"),
        ('{"type": "integer", "minimum": 5, "maximum": 2}', "Unsatisfiable"),
        ('{"type": "text"}', "Invalid type: text"),
        ('{"type": "string", "pattern": "(?=a)b"}', "look-around"),
        ('{"$ref": "#/$defs/x"}', "does not exist"),
        ('{"$ref": "https://example.com/schema"}', "retriev"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}}', "uniqueItems"),
        ('{"x-guidance": {"no such": 1}}', "no such"),
        ('{"items": ' * 200 + "{}" + "}" * 200, "recursion"),
        (json.dumps({"description": "x" * MAX_SCHEMA_BYTES}), "more than 65536 bytes"),
        (json.dumps({"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(2, 9)]}), "regex"),
    ],
)
def test_a_schema_that_cannot_be_followed_says_why(compiler: GrammarCompiler, schema: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as raised:
        compiler.compile(ResponseFormat(schema))
    (violation,) = raised.value.violations
    assert violation.field == "response_format"
    assert len(violation.description) < 600


def test_a_schema_that_takes_too_much_work_ends_its_own_answer_alone(
    workshop: Workshop, compiler: GrammarCompiler
) -> None:
    # Where an `a` was at each of the last hundred characters is 2 ** 100 states.
    heavy = compiler.compile(bound_to({"type": "string", "pattern": "^.*a.{100}$"}))
    light = compiler.compile(bound_to({"type": "string"}))
    rng = random.Random(0)
    follow(heavy, workshop.tokenizer, '"')
    follow(light, workshop.tokenizer, '"')
    (quote,) = workshop.tokenizer.encode_text('"')
    for _ in range(50_000):
        masks = allowed([heavy, light], 262)
        if heavy.error is not None:
            break
        for grammar, mask in zip((heavy, light), masks, strict=True):
            grammar.accept(rng.choice([token for token in mask.nonzero().flatten().tolist() if token > quote]))
    samplers = [Sampler(SAMPLED, None, grammar=grammar) for grammar in (heavy, light)]
    failed, going_on = choose(torch.zeros(2, 262), samplers)
    assert isinstance(failed, InvalidArgument)
    assert failed.violations[0].field == "response_format"
    assert failed.message.endswith("16384 >= 16384")
    assert isinstance(going_on, Choice)
