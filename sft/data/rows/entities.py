"""Named entities in files, however their owners wrote them -> entities of the text, each checked against it.

notes = Counter()
read_entities("张华笑", [[0, 2, "PER"]], notes)                  # doccano, spaCy
read_entities("张华笑", {"PER": {"张华": [[0, 1]]}}, notes)       # CLUENER, whose ends are inclusive
read_tags(["张", "华", "笑"], ["B-PER", "I-PER", "O"])           # ("张华笑", [...]), as CoNLL and BIOES have it
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from prompts.tasks.ner import INSTRUCTION
from sft.data.rows.canonical import Entity, Json, Record, Row, RowError, name_kind, read_list, read_text
from sft.data.rows.turns import Notes
from sft.text import HAN, KANA

# Names of a span's parts; the first is the canonical one.
STARTS, ENDS = ("start_idx", "start", "start_offset", "begin"), ("end_idx", "end", "end_offset")
LABELS, MENTIONS = (
    ("entity_label", "label", "labels", "type", "entity_type"),
    ("entity_text", "text", "word", "mention"),
)
OTHER_LABELS = f"entities with labels that the question does not name ({INSTRUCTION.strip()})"
TAG = re.compile(r"([BIEMSLU])[-_](\S+)")  # B-PER, of IOB, IOBES and BMES
OUTSIDE = ("O", "")
BEGINS, ENDS_HERE = "BSU", "ESLU"  # letters of tags that start an entity, and that end it
SPACED = re.compile(f"[^{HAN}{KANA}]*")  # a row without Han characters and kana has spaces between words


def _in_units(text: str, encoding: str, size: int) -> Callable[[int, int], tuple[int, int]]:
    data = text.encode(encoding)

    def count(start: int, end: int) -> tuple[int, int]:
        before, inside = data[: start * size], data[start * size : end * size]
        places = [len(part.decode(encoding, "ignore")) for part in (before, before + inside)]
        return places[0], places[1]

    return count


def _countings(text: str) -> dict[str, Callable[[int, int], tuple[int, int]]]:
    """Other ways to count a span's offsets, by the note that reports them."""
    return {
        "entities whose end is their last character": lambda start, end: (start, end + 1),
        "entities with offsets in UTF-16 units": _in_units(text, "utf-16-le", 2),
        "entities with offsets in bytes": _in_units(text, "utf-8", 1),
    }


def read_entities(text: str, listed: Json, notes: Notes) -> list[Entity]:
    """The entities of a text; a span that does not hold the text it claims is refused."""
    if isinstance(listed, dict):
        listed = _list_mentions(listed)
    if not isinstance(listed, list):
        raise RowError("wrong_type", f"'entities' is {name_kind(listed)}, expected a list")
    return [entity for number, found in enumerate(listed) for entity in _read_entity(text, number, found, notes)]


def read_spans(record: Record, column: str, notes: Notes) -> Row:
    """A row of the column text and a column of spans."""
    text, value = read_text(record, "text"), record.get(column)
    return _make_row(
        text, read_entities(text, value if isinstance(value, dict) else read_list(record, column), notes), notes
    )


def read_tagged(record: Record, names: tuple[str, str], notes: Notes) -> Row:
    """A row of a column of tokens and a column of their tags."""
    text, entities = read_tags(*(read_list(record, name) for name in names))
    return _make_row(read_text({"text": text}, "text", names[0]), entities, notes)


def _make_row(text: str, entities: list[Entity], notes: Notes) -> Row:
    """A row of named entities; those with labels that the task does not ask for are counted."""
    if others := sum(entity["entity_label"] not in INSTRUCTION for entity in entities):
        notes[OTHER_LABELS] += others
    return {"id": "", "source": "", "task": "ner", "text": text, "entities": entities}


def are_spans(value: Json) -> bool:
    """Whether a label is no class but the spans of a text: [[0, 2, "PER"]], [{"start": 0, ...}], CLUENER's, or []."""
    if isinstance(value, dict):
        return all(isinstance(mentions, dict) for mentions in value.values())
    return isinstance(value, list) and all(
        (isinstance(span, list) and len(span) == 3)
        or (isinstance(span, dict) and not span.keys().isdisjoint((*STARTS, *ENDS)))
        for span in value
    )


def _list_mentions(by_label: dict[str, Any]) -> list[Json]:
    """{"PER": {"张华": [[0, 1]]}} -> [{"start_idx": 0, "end_idx": 1, "entity_text": "张华", "entity_label": "PER"}]."""
    try:
        return [
            {"start_idx": start, "end_idx": end, "entity_text": mention, "entity_label": label}
            for label, mentions in by_label.items()
            for mention, places in mentions.items()
            for start, end in places
        ]
    except (AttributeError, TypeError, ValueError):
        expected = "a list of spans, or {label: {mention: [[start, end]]}}"
        raise RowError("wrong_type", f"'entities' is an object, expected {expected}") from None


def _read_entity(text: str, number: int, found: Json, notes: Notes) -> list[Entity]:
    where = f"entities[{number}]"
    if isinstance(found, list) and len(found) == 3:  # doccano, spaCy: [0, 2, "PER"]
        found = {"start_idx": found[0], "end_idx": found[1], "entity_label": found[2]}
    if not isinstance(found, dict):
        raise RowError(
            "wrong_type", f"{where} is {name_kind(found)}, expected start_idx, end_idx, entity_text, entity_label"
        )
    start, end, label, claimed = (_first(found, names) for names in (STARTS, ENDS, LABELS, MENTIONS))
    labels = label if isinstance(label, list) else [label]  # Label Studio has a list of them
    if not labels or not all(isinstance(one, str) and one for one in labels):
        raise RowError("empty_answer", f"{where}: no 'entity_label'")
    start, end = _find_span(where, text, start, end, claimed, notes)
    return [
        {"start_idx": start, "end_idx": end, "entity_text": text[start:end], "entity_label": str(one)} for one in labels
    ]


def _first(found: dict[str, Json], names: Sequence[str]) -> Json:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _find_span(where: str, text: str, start: Json, end: Json, claimed: Json, notes: Notes) -> tuple[int, int]:
    """Where a span is in characters, its end exclusive: as written, or counted so that it holds what it claims."""
    if type(start) is int and type(end) is int and 0 <= start <= end:
        if text[start:end] != claimed and isinstance(claimed, str) and claimed:
            for note, count in _countings(text).items():
                place = count(start, end)
                if text[slice(*place)] == claimed:
                    notes[note] += 1
                    return place
        if start < end <= len(text):
            if claimed is not None and text[start:end] != claimed:
                raise RowError(
                    "wrong_span", f"{where}: text[{start}:{end}] is {text[start:end]!r}, entity_text says {claimed!r}"
                )
            return start, end
    raise RowError(
        "wrong_span", f"{where}: start_idx {start!r}, end_idx {end!r} lie outside the {len(text)} characters"
    )


def read_tags(tokens: list[Json], tags: list[Json]) -> tuple[str, list[Entity]]:
    """The text of some tokens, and its entities by their tags: IOB, BIOES, BMES or BILOU.

    Tokens of Chinese and Japanese are joined without spaces, as characters alone are. I- without a B- before it begins
    an entity, as seqeval has it.
    """
    if len(tokens) != len(tags):
        raise RowError("wrong_tags", f"{len(tokens)} tokens under {len(tags)} tags; each token has one")
    if not all(isinstance(token, str) and token for token in tokens):
        raise RowError("wrong_tags", "a token is empty or no text")
    words = [str(token) for token in tokens]
    alone = len(words) > 1 and all(len(word) == 1 for word in words)
    space = " " if SPACED.fullmatch("".join(words)) and not alone else ""
    entities: list[Entity] = []
    position, is_open = 0, False
    for word, tag in zip(words, tags, strict=True):
        found = TAG.fullmatch(tag) if isinstance(tag, str) else None
        if found is None and tag not in OUTSIDE:
            kind = "a number whose name nothing tells" if isinstance(tag, int) else "no tag like B-PER, I-PER or O"
            raise RowError("wrong_tags", f"tag {tag!r} is {kind}; write the tags as text (B-PER, I-PER, O)")
        end = position + len(word)
        if found is None:
            is_open = False
        else:
            letter, label = found.groups()
            if is_open and letter not in BEGINS and entities[-1]["entity_label"] == label:
                entities[-1]["end_idx"] = end
            else:
                entities.append({"start_idx": position, "end_idx": end, "entity_text": "", "entity_label": label})
            is_open = letter not in ENDS_HERE
        position = end + len(space)
    text = space.join(words)
    for entity in entities:
        entity["entity_text"] = text[entity["start_idx"] : entity["end_idx"]]
    return text, entities
