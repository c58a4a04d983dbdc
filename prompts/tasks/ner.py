"""Named entities, answered as one JSON object per line.

{"text": "张华笑", "entities": [{"start_idx": 0, "end_idx": 2, "entity_text": "张华", "entity_label": "PER"}]}
"""

import json
from collections.abc import Mapping

from prompts.errors import PromptError
from prompts.messages import Message
from prompts.task import Entity, Parsed, Row, Task, Unparseable, read_label, text_of

NO_ENTITY = "没有找到任何实体"
INSTRUCTION = "找出人名PER、地点LOC、地理实体GPE、组织ORG：\n"


def build_prompt(row: Row) -> list[Message]:
    """Instruction and text. Nothing may be shortened: the answer would name entities that are no longer there."""
    return [{"role": "user", "content": INSTRUCTION + text_of(row, "text"), "document": (0, 0)}]


def read_entities(row: Row) -> list[Entity]:
    """The row's entities in order of mention, without duplicates; a span may have several labels.

    Raises PromptError if an entity is not what it should be.
    """
    entities = row["entities"]
    if not isinstance(entities, list) or not all(isinstance(entity, Mapping) for entity in entities):
        raise PromptError("'entities' is no list of {start_idx, end_idx, entity_text, entity_label}; fix the row")
    for entity in entities:
        start, end, name = entity.get("start_idx"), entity.get("end_idx"), entity.get("entity_text")
        if not isinstance(start, int) or not isinstance(end, int) or text_of(row, "text")[start:end] != name:
            raise PromptError(f"entity {name!r} is not at {start}:{end} of the text; fix the row")
    ordered = sorted(entities, key=lambda entity: (entity["start_idx"], entity["end_idx"]))
    distinct = dict.fromkeys((one["start_idx"], one["end_idx"], text_of(one, "entity_label")) for one in ordered)
    return [Entity(text_of(row, "text")[start:end], label) for start, end, label in distinct]


def write_answer(row: Row) -> str:
    """{"entity_text": "北京", "entity_label": "GPE"} per line, or 没有找到任何实体."""
    lines = [{"entity_text": entity.text, "entity_label": entity.label} for entity in read_entities(row)]
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines) or NO_ENTITY


def read_answer(text: str, row: Row) -> Parsed | Unparseable:
    """Entities of an answer; the objects may be glued together, in a list or a code fence. Keys that are not ours are
    passed over; anything else between the objects makes the whole answer unparseable.
    """
    rest = text.strip()
    if read_label(rest, (NO_ENTITY,)) == NO_ENTITY:
        return []
    if not rest:
        return Unparseable("the answer is empty", text)
    rest = rest.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if rest.startswith("[") and rest.endswith("]"):
        rest = rest[1:-1]
    entities: list[Entity] = []
    while rest := rest.lstrip(" \t\r\n,，;；"):
        try:
            value, end = json.JSONDecoder().raw_decode(rest)
        except (ValueError, RecursionError):
            return Unparseable(f"no JSON object at {rest[:20]!r}", text)
        name, label = (value.get("entity_text"), value.get("entity_label")) if isinstance(value, dict) else (None, None)
        if not (isinstance(name, str) and name and isinstance(label, str) and label):
            return Unparseable(f"no entity_text and entity_label in {rest[:end][:60]!r}", text)
        entities.append(Entity(name, label))
        rest = rest[end:]
    return entities


TASK = Task(
    name="ner",
    kind="entities",
    prompt_fields=("text",),
    answer_fields=("entities",),
    example={
        "text": "张华在北京大学工作。",
        "entities": [
            {"start_idx": 0, "end_idx": 2, "entity_text": "张华", "entity_label": "PER"},
            {"start_idx": 3, "end_idx": 7, "entity_text": "北京大学", "entity_label": "ORG"},
        ],
    },
    build_prompt=build_prompt,
    write_answer=write_answer,
    read_answer=read_answer,
)
