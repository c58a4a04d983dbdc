"""The one module that recognises the form of a row and turns it into the canonical row.

id/source/task, any task's row      messages (OpenAI, R0)              conversations (ShareGPT, SlimOrca)
instruction/input/output (Alpaca)   instruction/context/response (Dolly)   query/response/history (ms-swift)
question/answer, prompt/response    prompt/completion (TRL)            text: ready ChatML
text/label, and the forms of the label tasks (text_a/label, text_cn/n_labels, ...); text/entities, text/category/output

A row is recognised by its non-empty columns: null, "" and [] count as empty. What a task's rows look like
comes from prompts.tasks; a task that is added there is recognised here.

    context = Context(Reading(), Recognised())
    convert_record({"text": "很好", "label": 1}, context)       # {"task": "sentiment", "label": "正面", ...}
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

from prompts import PromptError
from prompts.task import BLANK, Task, is_blank, label_key
from prompts.tasks import get_task, task_names
from sft.data.rows.canonical import (
    Json,
    Record,
    Row,
    RowError,
    name_kind,
    read_list,
    read_optional_text,
    read_text,
    refuse_endless,
)
from sft.data.rows.entities import are_spans, read_spans, read_tagged
from sft.data.rows.mapping import MAY_BE_MISSING, find_value
from sft.data.rows.pairs import BESIDE_PAIRS, PAIRS, USUAL, Pair, make_pair_row, refuse_rejected
from sft.data.rows.reading import NO_GROUPS, Reading, known_task, word_tasks
from sft.data.rows.recognised import COMMON, LABELS_KEPT, Recognised, explain_unknown
from sft.data.rows.tools import TOOL_COLUMNS, find_tools
from sft.data.rows.turns import is_chatml, make_chat_row, read_chatml
from sft.errors import ConfigError, nearest_name

TOKENS, TAGS = ("tokens", "words"), ("ner_tags", "tags", "labels", "label", "ner_labels", "bio_tags")
NUMBERS_ARE = "sentiment"  # the task whose class numbers a bare 0, 1, true or false is: ChnSentiCorp's, R2's
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
PREFERRED, REJECTED = ("chosen", "chosen_messages"), ("rejected", "rejected_response", "rejected_messages")
SPELLED_LABEL = "label_text"
LABELS_REMEMBERED = 1000
TABLES = (".csv", ".tsv", ".xlsx")


class Context:
    """The rules by which a file's rows are converted, and the notes made on the way."""

    def __init__(self, reading: Reading, recognised: Recognised) -> None:
        self.reading = reading
        self.recognised = recognised
        self.notes = recognised.notes
        self.task = reading.open_task()
        self.label_map = dict(reading.label_map)
        self.group = "group" if reading.group_by is None else reading.group_by
        learns_documents = self.task is not None and self.task.kind == "document"
        self.dialects = _document_forms() if learns_documents else _all_dialects(task_names())
        self.plans: dict[tuple[str, ...], Plan] = {}
        self.labels_read: dict[tuple[object, ...], tuple[str, str | int]] = {}  # labels read before
        if reading.form is not None and reading.form not in (names := [dialect.name for dialect in self.dialects]):
            unusual = {pair.name for pair in PAIRS[len(USUAL) :]}
            shown = ", ".join(name for name in names if name not in unusual)
            raise ConfigError(f"--form {reading.form}{nearest_name(reading.form, names)}: there are {shown}, ...")


class Dialect(NamedTuple):
    """A row format: its required and optional columns, and its conversion to a canonical row."""

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    convert: Callable[[Record, Context], Row]
    accepts: Callable[[Record], bool] | None = None  # whether the values suit the form; None: all do
    taken: Mapping[str, str] = MappingProxyType({})  # columns that are read as a field of another name

    @property
    def columns(self) -> frozenset[str]:
        """Every column that is read; any other is ignored, and the reader says so."""
        return self.required | self.optional


class Plan(NamedTuple):
    """How rows with something in the same columns are read."""

    dialects: tuple[Dialect, ...]  # that fit the columns; the first that accepts a row's values reads it
    renamed: dict[str, str]  # columns whose names differ in capitals alone: {"Text": "text"}
    told_of: set[str]  # dialects that the reader has reported
    has_common: bool  # whether there is a column that any row may have beside its form's


def convert_record(record: Record, context: Context, *, is_table: bool = False) -> Row:
    """The canonical row of a record; raises RowError if it fits no form, or its values do not suit the form.

    is_table: the record is under a header line, which may be wrong.
    """
    if context.reading.columns:
        record = _take_columns(record, context.reading.columns)
    names = tuple([name for name, value in record.items() if value or value == 0])
    plan = context.plans.get(names)
    if plan is None:
        plan = context.plans[names] = _make_plan(names, record, context)
    if plan.renamed:
        record = {plan.renamed.get(name, name): value for name, value in record.items()}
    dialect = _choose(plan, record)
    if dialect is None:  # an empty field may be the missing one: "'output' is empty" says more than "no form"
        plan = _make_plan(tuple(record), record, context)
        dialect = _choose(plan, record) or next(iter(plan.dialects), None)
        if dialect is None or dialect.name == "text":  # which reads ready ChatML alone
            raise explain_unknown(record, context.task, is_table=is_table)
        row = dialect.convert(record, context)
    elif dialect.name not in plan.told_of:
        row = dialect.convert(record, context)
        _tell(plan, dialect, record, names, context)
    else:
        row = dialect.convert(record, context)
    if plan.has_common:
        _keep_common(record, row, context)
    refuse_endless(row)
    context.recognised.dialects[dialect.name] += 1
    return row


def _make_plan(names: tuple[str, ...], record: Record, context: Context) -> Plan:
    known = _known_columns(task_names())
    renamed = {}
    for name in names:
        bare = name.strip(BLANK).casefold()
        if name not in known and bare in known and bare not in names:
            renamed[name] = bare
    given = {renamed.get(name, name) for name in names}
    is_chosen = not {column for _, column in context.reading.columns}.isdisjoint(PREFERRED)
    if not is_chosen and (rejected := [name for name in REJECTED if name in given]):
        chosen = next((name for name in PREFERRED if name in given), "")
        learns = f"; --columns {_field_of(record.get(chosen))}={chosen} learns the chosen ones" if chosen else ""
        raise RowError(
            "preference",
            f"{f'{chosen} and ' if chosen else ''}{rejected[0]}: this is preference data (DPO, ORPO), and only answers "
            f"to be given are learned here{learns}",
        )
    if "input_ids" in given:
        raise RowError("tokens", "'input_ids': rows that are tokens already are not read; give the texts")
    if media := [name for name in MEDIA if name in given]:
        raise RowError("media", f"{media[0]!r} is not empty; only text is learned here")
    form, task = context.reading.form, context.task
    fitting = [dialect for dialect in context.dialects if dialect.required <= given and form in (None, dialect.name)]
    if (
        task is not None and not task.takes_text_and_label and task.kind != "document"
    ):  # the user's setting takes precedence
        fitting.sort(key=lambda dialect: dialect.name != "/".join(task.required))
    has_common = not given.isdisjoint({*COMMON, context.group})
    return Plan(tuple(fitting), renamed, set(), has_common)


def _field_of(chosen: Json) -> str:
    """The field that a chosen answer is read as: "messages" if it brings its question with it, else "output"."""
    first = chosen[0] if isinstance(chosen, list) and chosen else None
    is_answer = not isinstance(first, dict) or first.get("role", first.get("from")) in ("assistant", "gpt")
    return "output" if is_answer else "messages"


def _choose(plan: Plan, record: Record) -> Dialect | None:
    for dialect in plan.dialects:
        if dialect.accepts is None or dialect.accepts(record):
            return dialect
    return None


def _tell(plan: Plan, dialect: Dialect, record: Record, names: tuple[str, ...], context: Context) -> None:
    """Note, once per set of columns, which column was read as which field, and which were ignored."""
    plan.told_of.add(dialect.name)
    recognised = context.recognised
    read = dialect.columns | COMMON | {context.group}
    if dialect.name == CANONICAL and (task := known_task(record.get("task"))) is not None:
        read |= {*task.required, *task.optional_fields}
    recognised.fields.update(names)
    recognised.ignored_columns |= {name for name in names if plan.renamed.get(name, name) not in read}
    if taken := [f"{column} is read as {name}" for column, name in dialect.taken.items() if column in names]:
        recognised.told.add(", ".join(taken))
    if plan.renamed:
        recognised.told.add("columns read: " + ", ".join(f"{name} as {bare}" for name, bare in plan.renamed.items()))
    others = [
        other.name
        for other in plan.dialects
        if not other.required <= dialect.columns and (other.accepts is None or other.accepts(record))
    ]
    if others and dialect.name != CANONICAL and context.reading.form is None:
        recognised.told.add(f"rows with {dialect.name} also fit {', '.join(others)} (--form {others[0]} reads that)")


def _take_columns(record: Record, columns: tuple[tuple[str, str], ...]) -> Record:
    taken = {column for _, column in columns}
    renamed = {name: value for name, value in record.items() if name not in taken}
    for name, column in columns:
        if column in record or name not in (*MAY_BE_MISSING, "id"):
            renamed[name] = find_value(record, column)
    return renamed


def _keep_common(record: Record, row: Row, context: Context) -> None:
    """What any row may bring beside its form: its id, its group, who wrote it."""
    own_id, group = record.get("id"), record.get(context.group)
    if not row["id"] and isinstance(own_id, str | int) and not isinstance(own_id, bool) and str(own_id).strip():
        row["own_id"] = str(own_id)
    if group is not None and context.group != NO_GROUPS:
        if not isinstance(group, str | int | float):
            raise RowError("wrong_type", f"{context.group!r} is {name_kind(group)}, expected a text or a number")
        if str(group).strip():
            row["group"] = str(group)
    attribution = record.get("attribution")
    if isinstance(attribution, str) and attribution:
        row["attribution"] = attribution


# The forms


def _convert_canonical(record: Record, context: Context) -> Row:
    """A row that names its task: one of a dataset folder, or of a user's own task."""
    task = known_task(record.get("task"))
    if task is None:
        named = record.get("task")
        near = nearest_name(named, task_names()) if isinstance(named, str) else ""
        raise RowError("unknown_task", f"task {named!r} is unknown{near}; expected one of: {', '.join(task_names())}")
    row = _read_fields(record, task, context)
    for name in ("id", "source"):
        value = record.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            row[name] = str(value).strip()
    if (system := read_optional_text(record, "system")) and "messages" not in row:
        row["system"] = system
    return row


def _accept_canonical(record: Record) -> bool:
    task = known_task(record.get("task"))
    if task is None or any(record.get(name) is None for name in task.required):
        return False
    return task.kind != "document" or not any(record.get(name) for name in ANSWERED)


def _read_fields(record: Record, task: Task, context: Context) -> Row:
    """The fields that a task's rows must have, with the types of its example."""
    if "messages" in task.required:
        return _convert_turns("messages", record, context)
    if task.required == ("instruction", "output"):
        return make_pair_row(record, PAIRS[0], context.notes)
    row: dict[str, object] = {"id": "", "source": "", "task": task.name}
    for name in (*task.prompt_fields, *task.optional_fields, *task.answer_fields):
        if name == "label" and task.is_of_one_label:
            row[name] = _read_label(record.get(name), task, context)
        elif name == "entities":
            row[name] = read_spans(record, name, context.notes)["entities"]
        elif name in task.optional_fields:
            row[name] = read_optional_text(record, name)
        elif isinstance(task.example.get(name), list):
            row[name] = read_list(record, name)
        elif isinstance(task.example.get(name), str):
            row[name] = read_text(record, name)
        else:  # a user's own task checks it itself
            row[name] = record.get(name)
    if task.kind == "label" and not task.is_of_one_label:
        try:
            options, answer = task.allowed_labels(row), task.write_answer(row)
        except PromptError as error:
            raise RowError("wrong_type", str(error)) from None
        if answer not in options:
            raise RowError(
                "unknown_label",
                f"{task.answer_fields[0]!r} {answer!r} is none of the row's own options: {', '.join(options)}",
            )
    return row  # type: ignore[return-value]


def _convert_labelled(record: Record, context: Context, names: Mapping[str, str], fixed: Task | None) -> Row:
    """A text and its class: of the named task, else of the form's, else of the one whose label it is."""
    text, label = read_text(record, names["text"]), record.get(names["label"])
    known = None
    if type(label) is str or type(label) is int or type(label) is bool:  # True and 1 are one key of a dict
        known = (type(label), label, fixed and fixed.name, record.get("task") if fixed is None else None)
        if type(known[3]) is not list and type(known[3]) is not dict and (found := context.labels_read.get(known)):
            return {"id": "", "source": "", "task": found[0], "text": text, "label": found[1]}
    if are_spans(label):  # doccano, CLUENER, Label Studio
        return read_spans(record, names["label"], context.notes)
    if names["text"] == "text_a" and record.get("text_b"):
        raise RowError(
            "unknown_dialect",
            "text_b is not empty, so a row is a pair of texts: join them in one column (`templates` of a "
            "datasets.yaml: docs/data_sets.md); --columns text=text_a reads the first alone",
        )
    named = None if fixed is not None and context.reading.is_told_by_labels else context.task
    if (spelled := record.get(SPELLED_LABEL)) and named is fixed is None and not context.label_map:
        label, known = spelled, None  # a class number's own name beside it, as SetFit's data sets have it
    task = named or fixed or _find_owner(label, record, context)
    value = _read_label(label, task, context)
    if known is not None and len(context.labels_read) < LABELS_REMEMBERED:
        context.labels_read[known] = (task.name, value)
    return {"id": "", "source": "", "task": task.name, "text": text, "label": value}


def make_labelled_row(task: Task, text: str, label: Json) -> Row:
    """A row of a label task; the label may be spelled in any way that the task knows."""
    value = task.find_label(label)
    if value is None:
        raise RowError("unknown_label", f"label {label!r} is unknown to {task.name}; it has {task.describe_labels()}")
    return {"id": "", "source": "", "task": task.name, "text": text, "label": value}


def _find_owner(label: Json, record: Record, context: Context) -> Task:
    """The task whose word a label is; a number is sentiment's, unless the row claims another task."""
    key = context.label_map.get(label_key(label)) or label_key(label)
    if not key or key.lstrip("+-").isdigit() or key in ("true", "false"):
        named = record.get("task")
        if isinstance(named, str) and not is_blank(named) and named != NUMBERS_ARE:  # else it was read as that task's
            raise RowError(
                "unknown_task",
                f"task {named!r} is unknown or has no text and label, so what label {label!r} means is, too; say so "
                "with --labels and --label_map, or --task",
            )
        return get_task(NUMBERS_ARE)
    owners = [task for task in word_tasks() if task.find_label(key) is not None]
    named = record.get("task")
    if not owners and isinstance(named, str) and known_task(named) is None:
        raise RowError(
            "unknown_task",
            f"task {named!r} is unknown; describe it in recipes/tasks/{named}.yaml, or pass its --labels",
        )
    if len(owners) > 1:
        raise RowError("unknown_label", f"label {label!r} is one of {' and of '.join(t.name for t in owners)}; "
                                        "say which with --task")  # fmt: skip
    return owners[0] if owners else get_task(NUMBERS_ARE)


def _read_label(label: Json, task: Task, context: Context) -> str | int:
    key = label_key(label)
    if not key:
        is_empty = label is None or isinstance(label, str)
        kind = "empty" if isinstance(label, str) else name_kind(label)
        remedy = "; a row has one label, as text or a number" if isinstance(label, list | dict) else ""
        raise RowError("empty_answer" if is_empty else "unknown_label", f"label is {kind}{remedy}")
    recognised = context.recognised
    value = task.find_label(context.label_map.get(key, label))
    if value is None:
        shown = str(label).strip()
        if shown in recognised.unknown_labels or len(recognised.unknown_labels) < LABELS_KEPT:
            recognised.unknown_labels[shown] += 1
        raise RowError(
            "unknown_label",
            f"label {label!r} is unknown to {task.name}; expected one of: {task.describe_labels()}; --labels names "
            "others, --label_map says which is which (in a preset: labels, label_map)",
        )
    if key != label_key(value) and len(recognised.labels) < LABELS_KEPT:
        recognised.labels[key] = str(value)
        recognised.label_tasks.add(task.name)
    return value


def read_instruct(record: Record) -> Row:
    """An instruct row of the fields instruction, input, output and system, for sources that have no columns."""
    return make_pair_row(record, PAIRS[0], Counter())


def _convert_turns(column: str, record: Record, context: Context) -> Row:
    refuse_rejected(record)
    system = record.get("system") or record.get("system_prompt")
    return make_chat_row(read_list(record, column), system, context.notes, find_tools(record))


def _convert_text(record: Record, context: Context) -> Row:
    return read_chatml(read_text(record, "text"), context.notes)


def _convert_document(record: Record, context: Context) -> Row:
    return {"id": "", "source": "", "task": "text", "text": read_text(record, "text")}


def _convert_lone_answer(record: Record, context: Context) -> Row:
    """ms-swift's form of a document: a conversation that is one answer and nothing else."""
    turns = read_list(record, "messages")
    if len(turns) != 1 or not isinstance(turns[0], dict) or turns[0].get("role") != "assistant":
        raise RowError("wrong_roles", "a conversation, and --task text learns whole documents; leave it out")
    return {"id": "", "source": "", "task": "text", "text": read_text(turns[0], "content")}


CANONICAL = "id/source/task"
ANSWERED = ("label", "labels", "output", "entities", "category", "messages", "instruction")  # no document has these
BESIDE_TURNS = frozenset(("system", "system_prompt", *TOOL_COLUMNS))
_FIELDS = (
    "id source text label entities category output instruction input system messages tools reasoning_content own_id"
)


def _holds_list(*columns: str) -> Callable[[Record], bool]:
    def accepts(record: Record) -> bool:
        values = [record.get(column) for column in columns]
        return all(
            isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[") for value in values
        )

    return accepts


def _make_pair(pair: Pair) -> Dialect:
    taken = {pair.question: "instruction", pair.answer: "output"} | dict.fromkeys(pair.extras, "input")
    taken = {column: name for column, name in taken.items() if name != column}

    def convert(record: Record, context: Context) -> Row:
        return make_pair_row(record, pair, context.notes)

    return Dialect(
        pair.name, frozenset((pair.question, pair.answer)), BESIDE_PAIRS.union(pair.extras), convert, taken=taken
    )


def _make_task_form(task: Task) -> Dialect:
    def convert(record: Record, context: Context) -> Row:
        return _read_fields(record, task, context)

    lists = [name for name in task.required if isinstance(task.example.get(name), list)]
    accepts = _holds_list(*lists) if lists else None
    name = "/".join(task.required)
    return Dialect(name, frozenset(task.required), frozenset(task.optional_fields) | {"system"}, convert, accepts)


def _make_tags_form(names: tuple[str, str]) -> Dialect:
    def convert(record: Record, context: Context) -> Row:
        return read_tagged(record, names, context.notes)

    return Dialect("/".join(names), frozenset(names), frozenset(), convert, _holds_list(*names))


def _make_label_form(task: Task | None, names: Mapping[str, str]) -> Dialect:
    others = {column for form in task.columns for column in form.values()} if task else {SPELLED_LABEL}

    def convert(record: Record, context: Context) -> Row:
        return _convert_labelled(record, context, names, task)

    required = frozenset(names.values())
    return Dialect("/".join(names.values()), required, frozenset(others - required), convert)


@cache
def _all_dialects(task_list: tuple[str, ...]) -> tuple[Dialect, ...]:
    """Every form. If a row fits two, the first counts, so forms with more specific columns are first."""
    tasks = [get_task(name) for name in task_list]
    plain = [task for task in tasks if task.takes_text_and_label or task.name in ("chat", "instruct")]
    forms = [
        Dialect(CANONICAL, frozenset(("task",)), frozenset(_FIELDS.split()), _convert_canonical, _accept_canonical)
    ]
    for column in ("messages", "conversations", "conversation"):

        def convert(record: Record, context: Context, column: str = column) -> Row:
            return _convert_turns(column, record, context)

        forms.append(Dialect(column, frozenset((column,)), BESIDE_TURNS, convert, _holds_list(column)))
    forms += [_make_task_form(task) for task in tasks if task not in plain and task.kind != "document"]
    forms += [_make_tags_form(names) for names in product(TOKENS, TAGS)]
    forms.append(
        Dialect(
            "text/spans",
            frozenset(("text", "spans")),
            frozenset(),
            lambda record, context: read_spans(record, "spans", context.notes),
            _holds_list("spans"),
        )
    )
    forms += [_make_pair(pair) for pair in PAIRS]
    forms += [_make_label_form(task, names) for task in tasks for names in task.columns]
    forms.append(_make_label_form(None, {"text": "text", "label": "label"}))
    forms.append(
        Dialect(
            "text",
            frozenset(("text",)),
            frozenset(),
            _convert_text,
            lambda record: is_chatml(record["text"]),
            taken={"text": "ready ChatML"},
        )
    )
    return tuple(forms)


@cache
def _document_forms() -> tuple[Dialect, ...]:
    return (
        Dialect("text of documents", frozenset(("text",)), frozenset(("task",)), _convert_document),
        Dialect("messages of documents", frozenset(("messages",)), frozenset(("task",)), _convert_lone_answer),
    )


@cache
def _known_columns(task_list: tuple[str, ...]) -> frozenset[str]:
    return COMMON.union(*(dialect.columns for dialect in _all_dialects(task_list)))
