"""Tasks made from the dialogues themselves, which teach copying, choosing and JSON in general.

Each task takes a message of a dialogue and an instruction whose answer follows from the message by a rule.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence

from corpus import Dialogue, Message

TOPICS: dict[str, tuple[str, ...]] = {
    "food": ("restaurant", "food", "table", "cuisine"),
    "flights": ("flight", "airline", "airport", "fly"),
    "hotels": ("hotel", "room", "check in"),
    "buses": ("bus", "station"),
    "trains": ("train",),
    "cars": ("car", "cab", "ride", "pick up"),
    "films": ("movie", "film", "theater", "cinema"),
    "music": ("song", "music", "album", "artist"),
    "weather": ("weather", "temperature", "rain", "humidity"),
    "money": ("account", "transfer", "balance", "payment"),
    "health": ("doctor", "dentist", "therapist", "appointment"),
    "homes": ("apartment", "house", "property", "bedroom"),
    "events": ("event", "concert", "ticket", "game"),
    "calendar": ("calendar", "alarm", "schedule"),
    "coffee": ("coffee", "latte", "mocha", "drink", "tea"),
}
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)?")
_NUMBER = re.compile(r"\d+(?:[.:,]\d+)*")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*")


class _Sample:
    """A user's message of a dialogue, with what the rules read from it."""

    def __init__(self, dialogue: Dialogue, rng: random.Random) -> None:
        self.text = rng.choice(dialogue)["content"]
        self.words = _WORD.findall(self.text)
        self.topic = topic_of(dialogue)


def topic_of(dialogue: Dialogue) -> str | None:
    """Return the topic whose keywords the dialogue uses most, or None where no topic is ahead of the others."""
    text = " ".join(message["content"] for message in dialogue).lower()
    counts = Counter({topic: sum(text.count(key) for key in keys) for topic, keys in TOPICS.items()})
    (topic, most), (_, second) = counts.most_common(2)
    return topic if most >= max(2, 2 * second) else None


_Answered = tuple[str, str] | None
_Rule = Callable[[_Sample, random.Random], _Answered]


def _repeat(sample: _Sample, rng: random.Random) -> _Answered:
    said = rng.choice(("Repeat the message.", "Say exactly what the user says.", "Copy the text word for word."))
    return said, sample.text


def _list_words(sample: _Sample, rng: random.Random) -> _Answered:
    said = rng.choice(("List the words as a JSON array.", "Answer with a JSON list of the words."))
    return said, json.dumps(sample.words[:12], ensure_ascii=False)


def _snake_case(sample: _Sample, rng: random.Random) -> _Answered:
    said = rng.choice(("Write the first words in snake_case.", "Turn the start of the message into a snake_case name."))
    return said, "_".join(word.lower() for word in sample.words[:4])


def _fill_slots(sample: _Sample, rng: random.Random) -> _Answered:
    places = [i for i, word in enumerate(sample.words[:-1]) if sample.words.count(word) == 1]
    if len(places) < 2:
        return None
    chosen = sorted(rng.sample(places, min(len(places), rng.randint(1, 4))))
    asked = ", ".join(f'"{sample.words[i]}"' for i in chosen)
    said = rng.choice(("As JSON, give the word after each of:", "Fill a JSON object with the word that follows:"))
    return f"{said} {asked}.", json.dumps({sample.words[i]: sample.words[i + 1] for i in chosen}, ensure_ascii=False)


def _facts(sample: _Sample, rng: random.Random) -> _Answered:
    facts = {"numbers": _NUMBER.findall(sample.text), "names": _NAME.findall(sample.text)}
    if not any(facts.values()):
        return None
    wanted = [["numbers"], ["names"], ["numbers", "names"], ["names", "numbers"]][rng.randrange(4)]
    said = rng.choice(("Extract as JSON:", "Return a JSON object with the"))
    return f"{said} {', '.join(wanted)}.", json.dumps({key: facts[key] for key in wanted}, ensure_ascii=False)


def _pairs(sample: _Sample, rng: random.Random) -> _Answered:
    """An object written as `key: value` lines in the instruction, to be turned into JSON, or one value looked up."""
    words = list(dict.fromkeys(word.lower() for word in sample.words))
    if len(words) < 4:
        return None
    rng.shuffle(words)
    size = rng.randint(2, min(5, len(words) // 2))
    values = dict(zip(words[:size], words[size : 2 * size], strict=True))
    written = "; ".join(f"{key}: {value}" for key, value in values.items())
    if rng.random() < 0.5:
        return f"{written}. Write it as JSON.", json.dumps(values, ensure_ascii=False)
    key = rng.choice(words[:size])
    return f"{written}. What is {key}?", values[key]


def _find_word(sample: _Sample, rng: random.Random) -> _Answered:
    words = [word.lower() for word in sample.words if len(word) > 3]
    others = [key for keys in TOPICS.values() for key in keys if key not in sample.text.lower()]
    if not words:
        return None
    answer = rng.choice(words)
    options = [answer, *rng.sample(others, rng.randint(2, 5))]
    rng.shuffle(options)
    return f"Which of these is in the message: {', '.join(options)}?", answer


def _topic(sample: _Sample, rng: random.Random) -> _Answered:
    if sample.topic is None or len(sample.words) < 7:
        return None
    options = [sample.topic, *rng.sample([t for t in TOPICS if t != sample.topic], rng.randint(2, 9))]
    rng.shuffle(options)
    said = rng.choice(("Classify the message. Labels:", "Choose one topic:", "Answer with one label of:"))
    if rng.random() < 0.3:
        return f"{said} {', '.join(options)}.", json.dumps({"topic": sample.topic})
    return f"{said} {', '.join(options)}.", sample.topic


_RULES: tuple[tuple[_Rule, int], ...] = (
    (_repeat, 2),
    (_list_words, 1),
    (_snake_case, 1),
    (_fill_slots, 3),
    (_facts, 3),
    (_pairs, 2),
    (_find_word, 2),
    (_topic, 6),
)
_TOOL_SHARE = 0.04


def make_task(dialogues: Sequence[Dialogue], rng: random.Random) -> tuple[Dialogue, list[Message] | None]:
    """Return one task as a dialogue, and its `tools` where it is one that calls a tool."""
    rules, weights = zip(*_RULES, strict=True)
    while True:
        sample = _Sample(rng.choice(dialogues), rng)
        if not sample.words:
            continue
        if rng.random() < _TOOL_SHARE:
            return _tool_task(sample, rng)
        answered = rng.choices(rules, weights)[0](sample, rng)
        if answered is not None:
            return _as_dialogue(sample, answered, rng), None


def _as_dialogue(sample: _Sample, answered: tuple[str, str], rng: random.Random) -> Dialogue:
    instruction, answer = answered
    reply: Message = {"role": "assistant", "content": answer}
    if rng.random() < 0.25:
        return [{"role": "user", "content": f"{instruction}\n\n{sample.text}"}, reply]
    role = "system" if rng.random() < 0.8 else "developer"
    return [{"role": role, "content": instruction}, {"role": "user", "content": sample.text}, reply]


def _tool_task(sample: _Sample, rng: random.Random) -> tuple[Dialogue, list[Message]]:
    """A call that copies one argument, the tool's answer, and a closing word."""
    name, key = rng.choice((("save_note", "note"), ("search", "query"), ("send_message", "text")))
    schema = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    call = {"type": "function", "function": {"name": name, "arguments": {key: sample.text}}}
    dialogue: Dialogue = [
        {"role": "user", "content": sample.text},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"status": "ok"}'},
        {"role": "assistant", "content": rng.choice(("Done.", "That is done.", "It is done."))},
    ]
    return dialogue, [{"type": "function", "function": {"name": name, "parameters": schema}}]
