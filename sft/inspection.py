"""Rows as the model sees them, how long they are, and what a length limit would cost. Pure: no model, no files.

for view in view_row(row, chat, settings):
    print(render_view(view, False))
survey = survey_rows(rows, chat, settings)
print(table(length_rows(survey), header=LENGTH_HEADER))
"""

import statistics
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest

from prompts import ChatFormat, Head, Piece, PromptError
from sft.config.train import TrainSettings
from sft.console import make_visible
from sft.data.rows.canonical import Row
from sft.encoding import encode_each
from sft.pages import render

LIMITS = (512, 1024, 2048, 4096)  # tokens; limits for which the cost of truncation is shown
EDGES = (64, 128, 256, 512, 1024, 2048, 4096)  # of the histogram, inclusive
CHUNK_ROWS = 2048  # rows whose conversations are held at once: memory does not grow with the dataset

LENGTH_HEADER = ["source", "rows", "median", "p95", "longest", "learned", *(f"<={edge}" for edge in EDGES), "more"]
COST_HEADER = ["limit", "rows over", "shortened", "dropped", "tokens cut", "tokens dropped", "lost of all", "in force"]

CONTROL, LEARNED, RESET = "\x1b[36m", "\x1b[1;32m", "\x1b[0m"


@dataclass(frozen=True)
class View:
    """One example of a row: its pieces as the model sees them, or why there are none."""

    id: str
    source: str
    task: str
    pieces: tuple[Piece, ...] = ()
    num_tokens: int = 0
    num_supervised: int = 0
    num_cut: int = 0
    problem: str = ""
    label: str = ""  # the class, for a classification head

    @property
    def title(self) -> str:
        """`reviews-17 | source reviews | task sentiment | 91 tokens, 5 learned, 0 cut`"""
        learned = f"label {self.label}" if self.label else f"{self.num_supervised:,} learned"
        counts = f"{self.num_tokens:,} tokens, {learned}, {self.num_cut:,} cut"
        return make_visible(f"{self.id} | source {self.source} | task {self.task} | {self.problem or counts}")

    @property
    def look_alikes(self) -> list[str]:
        """Control tokens that the row's own text spells out, and that are ordinary text here: ["<|im_end|>"]."""
        tokens = dict.fromkeys(piece.text for piece in self.pieces if piece.is_control)
        return [token for token in tokens if any(token in piece.text for piece in self.pieces if not piece.is_control)]


@dataclass
class Lengths:
    """Tokens of the examples of one source, uncut, and how many of them are learned."""

    lengths: list[int] = field(default_factory=list)
    num_supervised: int = 0


@dataclass
class Cost:
    """What a length limit would do: rows over it, how many are shortened or dropped, and the tokens that go."""

    limit: int
    num_over: int = 0
    num_shortened: int = 0
    num_dropped: int = 0
    tokens_cut: int = 0
    tokens_dropped: int = 0


@dataclass
class Survey:
    """All rows of a dataset, measured; unusable: id -> why the row cannot be rendered; limit_in_force: in tokens."""

    sources: dict[str, Lengths]
    costs: list[Cost]
    unusable: dict[str, str]
    limit_in_force: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens of all examples, uncut."""
        return sum(sum(source.lengths) for source in self.sources.values())


def view_row(row: Row, chat: ChatFormat, settings: TrainSettings, head: Head | None = None) -> list[View]:
    """A row as training would see it: one view, or several where one example cannot hold all of its answers.

    head: the classification head that is to learn it; it reads the prompt and says a label.
    """
    identity = (str(row["id"]), str(row["source"]), str(row["task"]))
    ((_, examples),) = encode_each([row], chat, settings.system_prompt, settings.rules, head)
    if isinstance(examples, PromptError):
        return [View(*identity, problem=str(examples))]
    return [
        View(
            *identity,
            tuple(chat.show(encoded)),
            len(encoded.input_ids),
            encoded.num_supervised,
            encoded.num_cut,
            label=head.labels[encoded.label] if head and encoded.label is not None else "",
        )
        for encoded in examples
    ]


def choose_rows(rows: Sequence[Row], count: int) -> list[Row]:
    """The first rows of every source in turn, so that a few rows show all of them: [a1, b1, a2, b2, ...]."""
    by_source: dict[object, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row["source"]].append(row)
    in_turn = [row for group in zip_longest(*by_source.values()) for row in group if row is not None]
    return in_turn[:count]


def survey_rows(rows: Sequence[Row], chat: ChatFormat, settings: TrainSettings) -> Survey:
    """Lengths of every row, and what each of LIMITS and the limit in force cost with documents shortened as set."""
    limits = sorted({*LIMITS, settings.max_seq_length})
    survey = Survey(defaultdict(Lengths), [Cost(limit) for limit in limits], {}, settings.max_seq_length)
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        long: list[tuple[Row, int]] = []
        for row, examples in encode_each(chunk, chat, settings.system_prompt, settings.rules._replace(max_length=None)):
            if isinstance(examples, PromptError):
                survey.unusable[str(row["id"])] = str(examples)
                continue
            lengths = [len(encoded.input_ids) for encoded in examples]
            source = survey.sources[str(row["source"])]
            source.lengths += lengths
            source.num_supervised += sum(encoded.num_supervised for encoded in examples)
            if max(lengths) + settings.answer_room > limits[0]:  # a shorter row is shortened by no limit
                long.append((row, sum(lengths)))
        for cost in survey.costs:
            _add_cost(cost, long, chat, settings)
    return survey


def _add_cost(cost: Cost, rows: Sequence[tuple[Row, int]], chat: ChatFormat, settings: TrainSettings) -> None:
    """Encode the rows that may exceed the limit; count those that do, and the tokens they lose."""
    rules = settings.rules._replace(max_length=cost.limit, on_too_long="shorten")
    encoded = encode_each([row for row, _ in rows], chat, settings.system_prompt, rules)
    for (_, num_tokens), (_, examples) in zip(rows, encoded, strict=True):
        if isinstance(examples, PromptError):
            cost.num_over += 1
            cost.num_dropped += 1
            cost.tokens_dropped += num_tokens
        elif num_cut := sum(example.num_cut for example in examples):
            cost.num_over += 1
            cost.num_shortened += 1
            cost.tokens_cut += num_cut


def length_rows(survey: Survey) -> list[list[object]]:
    """Rows of the table of lengths under LENGTH_HEADER, one per source, and one for all if there are several."""
    sources = dict(survey.sources)
    if len(sources) > 1:
        everything = [length for source in sources.values() for length in source.lengths]
        sources["all"] = Lengths(everything, sum(source.num_supervised for source in sources.values()))
    rows: list[list[object]] = []
    for name, source in sources.items():
        ordered = sorted(source.lengths)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
        learned = f"{source.num_supervised / sum(ordered):.1%}"
        figures = [len(ordered), round(statistics.median(ordered)), p95, ordered[-1], learned]
        rows.append([name, *figures, *histogram(ordered)])
    return rows


def histogram(lengths: Sequence[int]) -> list[int]:
    """Number of lengths below each of EDGES, and above the last: [60, 64, 65, 9000] -> [2, 1, 0, ..., 1]."""
    counts = Counter(bisect_left(EDGES, length) for length in lengths)
    return [counts[place] for place in range(len(EDGES) + 1)]


def cost_rows(survey: Survey) -> list[list[object]]:
    """Rows of the table of costs under COST_HEADER, one per limit; that of --max_seq_length is marked."""
    rows: list[list[object]] = []
    for cost in survey.costs:
        lost = (cost.tokens_cut + cost.tokens_dropped) / max(1, survey.num_tokens)
        counts = [cost.num_over, cost.num_shortened, cost.num_dropped, cost.tokens_cut, cost.tokens_dropped]
        mark = "yes" if cost.limit == survey.limit_in_force else ""
        rows.append([cost.limit, *counts, f"{lost:.1%}", mark])
    return rows


def render_view(view: View, colours: bool) -> str:
    """A row as text with visible control tokens; learned parts are coloured, or in «» without colours."""
    lines = [f"--- {view.title}"]
    if view.pieces:
        lines.append(
            "".join(_render_piece(text, kind, colours) for text, kind in merge_pieces(view.pieces)).rstrip("\n")
        )
    if view.label:
        lines.append(f"label: {_render_piece(view.label, 'learned', colours)}")
    if view.look_alikes:
        lines.append(
            f"(the text itself spells out {', '.join(view.look_alikes)}; there it is encoded as ordinary text)"
        )
    return "\n".join(lines)


def list_facts(rows: Sequence[Row], settings: TrainSettings) -> list[str]:
    """How the rows were encoded, in words: ["12 rows, tokenizer of embedded, system prompt: 'Be brief.'", ...]."""
    prompt = "the template's own" if settings.system_prompt is None else repr(settings.system_prompt)
    return [
        f"{len(rows):,} rows, tokenizer of {settings.model}, system prompt: {prompt}",
        f"Rows are shown as shortened to {settings.max_seq_length:,} tokens; lengths and costs are of whole rows.",
    ]


def describe(views: Sequence[View], survey: Survey) -> dict[str, object]:
    """What inspect_data.py --json prints: {"rows": [...], "lengths": [...], "costs": [...], "unusable": {...}}."""
    shown = []
    for view in views:
        pieces = [{"text": text, "kind": kind} for text, kind in merge_pieces(view.pieces)]
        shown.append({**asdict(view), "pieces": pieces})
    return {
        "rows": shown,
        "lengths": [dict(zip(LENGTH_HEADER, row, strict=True)) for row in length_rows(survey)],
        "costs": [asdict(cost) for cost in survey.costs],
        "unusable": survey.unusable,
    }


def merge_pieces(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Pieces for the eye, neighbours of one kind together: [("<|im_start|>", "control"), ("user", "context"), ...].

    The kinds are "learned" (control tokens among it), "control" and "context".
    """
    merged: list[tuple[str, str]] = []
    for text, is_control, is_supervised in pieces:
        kind = "learned" if is_supervised else "control" if is_control else "context"
        if merged and merged[-1][1] == kind:
            text = merged.pop()[0] + text
        merged.append((text, kind))
    return merged


def render_legend(colours: bool) -> str:
    """The legend of render_view's marks."""
    if colours:
        return f"{LEARNED}learned{RESET}, {CONTROL}control token{RESET}, context"
    return "«learned»; all else is context"


def _render_piece(text: str, kind: str, colours: bool) -> str:
    text = make_visible(text)  # a row may hold sequences that steer a terminal
    if kind == "context" or (kind == "control" and not colours):
        return text
    if not colours:
        return f"«{text}»"
    return f"{LEARNED if kind == 'learned' else CONTROL}{text}{RESET}"


def render_page(title: str, facts: Sequence[str], views: Sequence[View], survey: Survey) -> str:
    """The whole page as HTML text; facts are lines about how the rows were encoded."""
    return render(
        "rows.html",
        title=title,
        language="en",
        facts=facts,
        views=views,
        merge_pieces=merge_pieces,
        lengths=(LENGTH_HEADER, length_rows(survey)),
        costs=(COST_HEADER, cost_rows(survey)),
        histograms={name: _bars(source.lengths) for name, source in survey.sources.items()},
        problems=list(survey.unusable.items()),
    )


def _bars(lengths: Sequence[int]) -> list[tuple[str, int, float]]:
    """(edge, rows, percent of the fullest): [("≤ 64", 12, 100.0), ...]."""
    counts = histogram(lengths)
    labels = [*(f"≤ {edge:,}" for edge in EDGES), "more"]
    return [(label, count, 100 * count / max(counts)) for label, count in zip(labels, counts, strict=True)]
