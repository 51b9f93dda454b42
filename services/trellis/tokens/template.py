"""Chat templates, rendered in a sandbox with the names and filters that templates of Hugging Face models expect.

The settings are those of transformers' `apply_chat_template`, so that a template gives the same text here and there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trellis.formats import Message
from trellis.tokens.errors import TemplateError

_MARKS: Final = "generation_marks"
_NO_MARKS: Final = ("", "")
# what a template's own arithmetic, look-ups and calls may raise
_TEMPLATE_FAULTS: Final = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip


class _Generation(Extension):
    """The tag `{% generation %}`: its text is put between two marks, so that it is found however it is moved about."""

    tags = {"generation"}  # noqa: RUF012  the name and the type are Jinja's

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Context, caller: Macro) -> str:
        start, end = context.get(_MARKS, _NO_MARKS)
        return f"{start}{caller()}{end}"


class ChatTemplate:
    """A compiled chat template. `clock` answers templates that write today's date."""

    def __init__(self, source: str, variables: Mapping[str, str], clock: Callable[[], datetime]) -> None:
        self._variables = dict(variables)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: clock().strftime(form)
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except jinja2.TemplateError as error:
            raise TemplateError("no_chat_template", f"The base model's chat template is broken: {error}") from None
        self.knows_developer = "developer" in source
        self.marks_generation = any(
            isinstance(call.call.node, nodes.ExtensionAttribute) and call.call.node.identifier == _Generation.identifier
            for call in tree.find_all(nodes.CallBlock)
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool,
        generation_marks: tuple[str, str] = _NO_MARKS,
    ) -> str:
        """The conversation as text. Raises TemplateError (`template_rejected`) with the template's own reason."""
        values: dict[str, Any] = {
            **self._variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            _MARKS: generation_marks,
        }
        try:
            return self._template.render(values)
        except _TEMPLATE_FAULTS as error:
            reason = f"The base model's chat template refuses the conversation: {error}"
            raise TemplateError("template_rejected", reason) from None


def template_message(message: Message, *, knows_developer: bool) -> dict[str, Any]:
    """A message as templates expect it: keys without a value left out, and arguments of calls as objects."""
    role = "system" if message.role == "developer" and not knows_developer else message.role
    calls = message.tool_calls and [_template_call(call) for call in message.tool_calls]
    fields = {
        "role": role,
        "content": message.content,
        "name": message.name,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _template_call(call: Mapping[str, Any]) -> dict[str, Any]:
    """On the wire the arguments are JSON text; templates write them with `tojson`, which would quote a text again."""
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        function["arguments"] = parsed if isinstance(parsed, dict) else arguments
    return {**call, "function": function}


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own `tojson` escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
