"""A chat template is a program by the model's author; it runs here in a separate process with limits.

jinja2's sandbox keeps a template from files and from Python's inside, but not from looping for ever or from a string of
a terabyte. A process can be given limits of time and memory that nothing in it gets around, and ends without harm.
This file is that process, too: it reads one JSON object from standard input and writes one to standard output.

    render_apart("{{ messages[0].content }}", [Rendering([{"role": "user", "content": "hi"}])])      # ["hi"]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

CPU_SECONDS = 5  # Qwen3's template, nine times: 0.1
WALL_SECONDS = 60  # on a machine that is busy with other things
MEMORY_BYTES = 2**30
OUTPUT_CHARACTERS = 1_000_000


class TemplateFailure(Exception):
    """What is wrong with a template, in words that go after "the chat template": "takes more than 5 s"."""


@dataclass(frozen=True)
class Rendering:
    """One text to be rendered: the messages, and what else the template may ask for by name.

    may_fail: a template that refuses the conversation gives None for it and is no failure.
    """

    messages: Sequence[Mapping[str, object]]
    settings: dict[str, object] = field(default_factory=dict)
    may_fail: bool = False


def render_apart(
    template: str, renderings: Sequence[Rendering], special_tokens: Mapping[str, str] | None = None
) -> list[str | None]:
    """The template's text of each conversation, as transformers renders it. Raises TemplateFailure."""
    asked = {
        "path": sys.path,
        "template": template,
        "renderings": [asdict(rendering) for rendering in renderings],
        "special_tokens": dict(special_tokens or {}),
        "cpu_seconds": CPU_SECONDS,
    }
    command = [sys.executable, "-I", "-S", __file__]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, encoding="utf-8", timeout=WALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise TemplateFailure(f"takes more than {WALL_SECONDS} s for a short conversation") from None
    if done.returncode:  # killed by a limit, or by an overflow of the stack
        limits = f"{CPU_SECONDS} s, {MEMORY_BYTES // 2**20:,} MiB"
        raise TemplateFailure(f"takes more than a short conversation may ({limits}, the interpreter's stack)")
    answer = json.loads(done.stdout)
    if "failure" in answer:
        raise TemplateFailure(answer["failure"])
    texts: list[str | None] = answer["texts"]
    return texts


def _main() -> None:
    """Render the request on standard input; the exit code is not 0 if a limit is hit."""
    asked = json.load(sys.stdin)
    sys.path[:] = asked["path"]
    _limit_process(asked["cpu_seconds"])
    import jinja2

    faults = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
    try:
        compiled = _compile(asked["template"])
        texts: list[str | None] = []
        for each in asked["renderings"]:
            given = {"messages": each["messages"], **asked["special_tokens"], **each["settings"]}
            try:
                texts.append(_render(compiled, given))
            except faults:
                if not each["may_fail"]:
                    raise
                texts.append(None)
        answer: dict[str, object] = {"texts": texts}
    except (RecursionError, MemoryError) as error:
        what = "nests too deeply" if isinstance(error, RecursionError) else "takes too much memory"
        answer = {"failure": f"{what} for a short conversation"}
    except TemplateFailure as error:
        answer = {"failure": str(error)}
    except faults as error:
        answer = {"failure": f"fails on a plain conversation: {' '.join(str(error).split())[:300]}"}
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    json.dump(answer, sys.stdout)


def _limit_process(cpu_seconds: int) -> None:
    """Time and memory of this process, where the system has such limits; what exceeds them is ended."""
    try:
        import resource
    except ImportError:  # Windows: the time-out of render_apart is left
        return
    for limit, most in ((resource.RLIMIT_CPU, cpu_seconds), (resource.RLIMIT_AS, MEMORY_BYTES)):
        try:
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):  # macOS sets no limit of address space
            continue


def _render(compiled: jinja2.Template, given: Mapping[str, object]) -> str:
    given = {"add_generation_prompt": False, **given}
    pieces, length = [], 0
    for piece in compiled.generate(**given):
        pieces.append(piece)
        length += len(piece)
        if length > OUTPUT_CHARACTERS:
            raise TemplateFailure(f"writes more than {OUTPUT_CHARACTERS:,} characters for a short conversation")
    return "".join(pieces)


def _compile(template: str) -> jinja2.Template:
    """A template in transformers' sandbox, with its filters and globals."""
    import datetime

    import jinja2
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


if __name__ == "__main__":
    _main()
