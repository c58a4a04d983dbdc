"""HTML as plain text that a model can learn from: paragraphs, lists and code keep their shape, markup is removed.

read_html("<p>Use <code>x</code></p><ul><li>so</li></ul>")           # "Use `x`\n- so"
"""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup, NavigableString, Tag

BLOCKS = ("p", "div", "blockquote", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6", "table")
PARTED_BY = dict.fromkeys(BLOCKS, ("\n\n", "\n\n")) | {"li": ("\n- ", "\n"), "tr": ("\n", ""), "td": (" ", " ")}
BLANK_LINES = re.compile(r"\n{3,}")
AROUND_LINE_END = re.compile(r" *\n *")
ITEM = re.compile(r"\n+-\s+")  # a paragraph in an item starts on the item's line; no blank lines between items
CODE_BLOCK = re.compile(r"\s*\0(\d+)\0\s*")
SPACES = re.compile(r"[ \t\r\n]+")


def read_html(html: str) -> str:
    """HTML as plain text: paragraphs parted by a blank line, code blocks as ``` fences, items as `- `, links' words.

    Spaces and line ends inside <pre> stay as they are. "<p>Use <code>x</code></p>" -> "Use `x`"
    """
    if "<" not in html and "&" not in html:
        return html.strip()
    code_blocks: list[str] = []  # replaced by \0 and a number meanwhile, so that the tidying keeps their spaces
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


def _describe_image(tag: Tag) -> str:
    words = tag.get("alt")
    return f"[{words}]" if isinstance(words, str) and words.strip() else ""
