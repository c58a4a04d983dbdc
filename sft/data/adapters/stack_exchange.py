"""HuggingFaceH4/stack-exchange-preferences: the question with its best answer, as text, with who wrote them.

Best is the highest pm_score (log2(1 + votes), rounded, and 1 more where the asker accepted it), then the accepted one,
then the one that stands first. The licence, cc-by-sa, asks that authors and sources stay named: `attribution`.
"""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, NavigableString, Tag

from sft.data.canonical import Json, RowError
from sft.data.fields import Record

LICENCE = "CC BY-SA 4.0"
BLOCKS = ("p", "div", "blockquote", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "table")
PARTED_BY = dict.fromkeys(BLOCKS, ("\n\n", "\n\n")) | {"li": ("\n- ", "\n"), "tr": ("\n", ""), "td": (" ", " ")}
BLANK_LINES = re.compile(r"\n{3,}")
AROUND_LINE_END = re.compile(r" *\n *")
ITEM = re.compile(r"\n+-\s+")  # a paragraph within an item begins on the item's line; items stand close together
CODE_BLOCK = re.compile(r"\s*\0(\d+)\0\s*")
SPACES = re.compile(r"[ \t\r\n]+")


def adapt_stack_exchange(record: Record) -> Record:
    """{"question": "<p>Why?</p>", "answers": [{"text", "pm_score", ...}], "metadata": [...]} -> instruction, output."""
    question, answers = record.get("question"), record.get("answers")
    if not isinstance(question, str) or not isinstance(answers, list):
        raise RowError("wrong_type", "expected 'question' as text and 'answers' as a list")
    given = [answer for answer in answers if isinstance(answer, dict) and isinstance(answer.get("text"), str)]
    if not given:
        raise RowError("empty_answer", "no answer")
    best = max(given, key=_rank)
    return {
        "instruction": read_html(question),
        "output": read_html(str(best["text"])),
        "attribution": _attribute(record.get("metadata"), best),
    }


def read_html(html: str) -> str:
    """HTML as plain text: paragraphs parted by a blank line, code blocks as ``` fences, items as `- `, links' words.

    Spaces and line ends inside <pre> stay as they are. "<p>Use <code>x</code></p>" -> "Use `x`"
    """
    if "<" not in html and "&" not in html:
        return html.strip()
    code_blocks: list[str] = []  # their spaces must outlive the tidying: \0 and a number stand for them meanwhile
    text = "".join(_walk(BeautifulSoup(html.replace("\0", ""), "lxml"), code_blocks))
    text = BLANK_LINES.sub("\n\n", AROUND_LINE_END.sub("\n", text.replace("\xa0", " ")))
    text = ITEM.sub("\n- ", text).strip()
    return CODE_BLOCK.sub(lambda match: f"\n\n```\n{code_blocks[int(match[1])]}\n```\n\n", text).strip()


def _walk(node: Tag, code_blocks: list[str]) -> Iterator[str]:
    for child in node.children:
        if type(child) is NavigableString:  # comments and the like are subclasses
            yield SPACES.sub(" ", child)
        elif not isinstance(child, Tag) or child.name in ("script", "style"):
            continue
        elif child.name == "pre":
            code_blocks.append(child.get_text().strip("\n"))
            yield f"\0{len(code_blocks) - 1}\0"
        elif child.name == "code":
            yield f"`{child.get_text()}`"
        elif child.name == "img":
            yield _describe_image(child)
        elif child.name in ("br", "hr"):
            yield "\n"
        else:
            around = PARTED_BY.get(child.name, ("", ""))
            yield around[0]
            yield from _walk(child, code_blocks)
            yield around[1]


def _rank(answer: dict[str, Json]) -> tuple[float, bool]:
    score = answer.get("pm_score")
    return (float(score) if isinstance(score, int | float) else float("-inf"), answer.get("selected") is True)


def _attribute(metadata: Json, answer: dict[str, Json]) -> str:
    """`https://ai.stackexchange.com/questions/7; answer by Ada, https://ai.stackexchange.com/users/3; CC BY-SA 4.0`."""
    places = [place for place in metadata if isinstance(place, str)] if isinstance(metadata, list) else []
    question = next((place for place in places if "/questions/" in place), places[0] if places else "Stack Exchange")
    author = ", ".join(str(answer[key]) for key in ("author", "author_profile") if answer.get(key))
    return "; ".join(part for part in (question, f"answer by {author}" if author else "", LICENCE) if part)


def _describe_image(tag: Tag) -> str:
    words = tag.get("alt")
    return f"[{words}]" if isinstance(words, str) and words.strip() else ""
