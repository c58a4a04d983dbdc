"""Reads a family off its chat template by trying it on small probe conversations.

The template is rendered in the same sandbox as transformers renders it. So any template that behaves like ChatML is
accepted, whatever its text, and any other is refused with what is missing.

    read_family(tokenizer.chat_template) -> Family(default_system="You are Qwen, ...", think_block="none", ...)
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prompts.errors import PromptError
from prompts.family import THINK_END, THINK_START, TURN_END, TURN_START, Family
from prompts.layout import lay_out
from prompts.messages import Message

if TYPE_CHECKING:
    import jinja2

EMPTY_THINK_BLOCK = f"{THINK_START}\n\n{THINK_END}\n\n"


def read_family(template: str | None, special_tokens: Mapping[str, str] | None = None) -> Family:
    """The family of a chat template (Jinja text, as in tokenizer.chat_template).

    special_tokens are what a template may call by name: {"bos_token": "<s>"}. Raises PromptError, naming the first
    thing that is not ChatML.
    """
    if not isinstance(template, str) or not template.strip():
        raise PromptError(
            "the tokenizer has no chat template; use an instruct model or a tokenizer with a ChatML template"
        )

    def render(messages: list[Message], **settings: bool) -> str:
        return render_template(template, messages, special_tokens, **settings)

    question: Message = {"role": "user", "content": "probe question"}
    answer: Message = {"role": "assistant", "content": "probe answer"}
    system: Message = {"role": "system", "content": "probe system"}

    once, twice = render([question, answer]), render([question, answer] * 2)
    block_and_answer = f"{TURN_START}assistant\n{EMPTY_THINK_BLOCK}{answer['content']}"
    may_think = render([question], add_generation_prompt=True)
    family = Family(
        default_system=_read_default_system(once),
        think_block=("none", "last", "every")[twice.count(block_and_answer)],
        opens_block=may_think.partition(f"{TURN_START}assistant\n")[2] != "",
        ends_with_newline=once.endswith("\n"),
    )
    for messages in ([question, answer], [system, question, answer, question, answer], [question, answer] * 3):
        _compare("a conversation", render(messages), _write(family, messages))
    for messages in ([question], [system, question], [question, answer, question]):
        prompt = render(messages, add_generation_prompt=True, enable_thinking=False)
        _compare("a prompt", prompt, _write(family, messages))
    return family


def _read_default_system(plain: str) -> str | None:
    """'<|im_start|>system\\nBe kind.<|im_end|>\\n<|im_start|>user...' -> 'Be kind.'; None if the user comes first."""
    head, found, _ = plain.partition(f"{TURN_START}user\n")
    if not found:
        raise PromptError(f"the chat template is not ChatML: it writes no '{TURN_START}user' turn but {plain[:60]!r}")
    if not head:
        return None
    opening, closing = f"{TURN_START}system\n", f"{TURN_END}\n"
    if not (head.startswith(opening) and head.endswith(closing)):
        raise PromptError(
            f"the chat template is not ChatML: it begins with {head[:60]!r}, expected a system turn or none"
        )
    return head[len(opening) : -len(closing)]


def _write(family: Family, messages: list[Message]) -> str:
    """What the template must have written, if the family describes it fully."""
    return "".join(piece.text for piece in lay_out(family, "auto", messages))


def _compare(what: str, rendered: str, expected: str) -> None:
    if rendered == expected:
        return
    place = next((i for i, (a, b) in enumerate(zip(rendered, expected, strict=False)) if a != b), None)
    place = min(len(rendered), len(expected)) if place is None else place
    raise PromptError(
        f"the chat template is not ChatML as this project knows it: in {what}, after {rendered[:place][-30:]!r} "
        f"it writes {rendered[place:][:40]!r} where {expected[place:][:40]!r} was expected; "
        "use a model of the Qwen2.5, Qwen3 or another ChatML family"
    )


def render_template(
    template: str, messages: list[Message], special_tokens: Mapping[str, str] | None = None, **settings: bool
) -> str:
    """The template's text of a conversation, as transformers renders it: "<|im_start|>user\\nhi<|im_end|>\\n".

    Raises PromptError where the template fails, or reaches for what its sandbox forbids.
    """
    settings.setdefault("add_generation_prompt", False)
    import jinja2  # here: `import prompts` stays cheap

    try:
        return _compile(template).render(messages=messages, **(special_tokens or {}), **settings)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise PromptError(f"the chat template fails on a plain conversation: {' '.join(str(error).split())}") from None


@functools.lru_cache(maxsize=8)  # Qwen3's takes 30 ms, and each is rendered several times
def _compile(template: str) -> jinja2.Template:
    """A template in transformers' sandbox, with its filters and globals."""
    import jinja2.ext
    import jinja2.sandbox

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: object, ensure_ascii: bool = False, **options: object) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=options.get("indent"))  # type: ignore[arg-type]

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _generation_tag()]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.datetime.now().strftime(pattern)
    return environment.from_string(template)


def _generation_tag() -> type:
    """Jinja extension for `{% generation %}…{% endgeneration %}`, which training templates put around answers."""
    import jinja2.ext
    import jinja2.nodes
    import jinja2.parser

    class GenerationTag(jinja2.ext.Extension):
        tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return GenerationTag
