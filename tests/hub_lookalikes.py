"""Small data sets in the layout of those that the presets name, every row made up."""

import hashlib
import json
from pathlib import Path

import pyarrow
import yaml
from pyarrow import parquet

from sft.data.sources.registry import SHIPPED
from tests.hub_server import HubServer

TOPICS = ("pytorch", "fpga", "plasmid", "sourdough")  # the last is of no topic that a preset asks for
NEWS_LABELS = (
    "Agriculture", "Art", "Communication", "Computer", "Economy", "Education", "Electronics", "Energy", "Enviornment",
    "History", "Law", "Literature", "Medical", "Military", "Mine", "Philosophy", "Politics", "Space", "Sports",
    "Transport",
)  # fmt: skip


def words_of(number: int, count: int = 8) -> str:
    """Words that no two numbers share, for rows must not be near duplicates of each other: "4b22 7777 d3f1 ..."."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return " ".join(digest[start : start + 4] for start in range(0, 4 * count, 4))


def write_parquet(path: Path, rows: list[dict[str, object]], row_group: int = 100) -> None:
    """One Parquet file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group)


def write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSONL file of these rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_card(folder: Path, configs: dict[str, dict[str, str]]) -> None:
    """A data set's card with its configurations: {"pqa_labeled": {"train": "pqa_labeled/train-*"}}."""
    lines = ["---", "configs:"]
    for name, splits in configs.items():
        lines += [f"- config_name: {name}", "  data_files:"]
        for split, pattern in splits.items():
            lines += [f"  - split: {split}", f"    path: {pattern}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join([*lines, "---", "A look-alike.", ""]), encoding="utf-8")


def make_slimorca(folder: Path, rows: int = 60) -> Path:
    """Open-Orca/SlimOrca: ShareGPT conversations, the system text sometimes empty."""
    systems = ["", "You are a helpful assistant."]
    write_jsonl(
        folder / "oo-labeled_correct.gpt4.sharegpt.jsonl",
        [
            {
                "conversations": [
                    {"from": "system", "value": systems[n % 2], "weight": None},
                    {"from": "human", "value": f"Orca question {n}: {words_of(n)}?", "weight": 0.0},
                    {"from": "gpt", "value": f"Orca answer {n}.", "weight": 1.0},
                ]
            }
            for n in range(rows)
        ],
    )
    return folder


def make_pubmedqa(folder: Path, labeled: int = 40, artificial: int = 60) -> Path:
    """qiaojin/PubMedQA with two configurations."""
    for config, rows in (("pqa_labeled", labeled), ("pqa_artificial", artificial)):
        write_parquet(
            folder / config / "train-00000-of-00001.parquet",
            [
                {
                    "pubid": n,
                    "question": f"Does {config} {n} help {words_of(n + len(config) * 1000)}?",
                    "context": {
                        "contexts": [f"Background {n}.", f"Results {words_of(n, 4)}."],
                        "labels": ["A", "B"],
                        "meshes": [],
                    },
                    "long_answer": f"It helps {n} times.",
                    "final_decision": "yes",
                }
                for n in range(rows)
            ],
        )
    write_card(folder, {name: {"train": f"{name}/train-*"} for name in ("pqa_labeled", "pqa_artificial")})
    return folder


def make_stack_exchange(folder: Path, rows: int = 120, files: int = 3) -> Path:
    """HuggingFaceH4/stack-exchange-preferences: HTML, several answers, one topic in four of no interest."""
    made: list[dict[str, object]] = [
        {
            "qid": n,
            "question": f"<p>How does <b>{TOPICS[n % 4]}</b> work, case {n}? {words_of(n)}</p>",
            "answers": [
                make_answer(1, f"<p>Poor answer {n}</p>", 0, "Bo"),
                make_answer(2, f"<p>Best answer {words_of(n, 2)} &amp; <code>x &lt; {n}</code></p>", 4, "Ada"),
            ],
            "metadata": [
                f"https://example.stackexchange.com/questions/{n}",
                "https://example.stackexchange.com",
                "https://example.stackexchange.com/users/1/",
            ],
            "date": "2020/01/01",
        }
        for n in range(rows)
    ]
    for number in range(files):
        write_parquet(folder / "data" / f"train-{number:05d}-of-{files:05d}.parquet", made[number::files], 20)
    return folder


def make_answer(number: int, html: str, score: int, author: str, *, selected: bool = False) -> dict[str, object]:
    """One answer as the data set has it."""
    return {
        "answer_id": number,
        "author": author,
        "author_id": number,
        "author_profile": f"https://example.stackexchange.com/users/{number}",
        "pm_score": score,
        "selected": selected,
        "text": html,
    }


def make_chnsenticorp(folder: Path, rows: int = 40) -> Path:
    """lansinuote/ChnSentiCorp: three splits; every fourth test row stands word for word in train."""
    train: list[dict[str, object]] = [{"label": n % 2, "text": f"第{n}间房，还可以 {words_of(n)}"} for n in range(rows)]
    test = [
        train[n] if n % 4 == 0 else {"label": n % 2, "text": f"第{n}本书，一般 {words_of(n + 1000)}"}
        for n in range(rows // 2)
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", train)
    write_parquet(
        folder / "data" / "validation-00000-of-00001.parquet",
        [{"label": n % 2, "text": f"第{n}台电脑，不错 {words_of(n + 2000)}"} for n in range(rows // 2)],
    )
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", test)
    return folder


def make_fudan_news(folder: Path, rows: int = 40, test_rows: int = 20) -> Path:
    """swift/zh_cls_fudan-news: configurations default and test, options that differ from row to row."""
    for name, count in (("train", rows), ("test", test_rows)):
        write_jsonl(
            folder / f"{name}.jsonl",
            [
                {
                    "text": f"{name}文章{n} {words_of(n + len(name) * 1000)}",
                    "category": [NEWS_LABELS[n % 20], NEWS_LABELS[(n + 7) % 20]],
                    "output": NEWS_LABELS[n % 20],
                }
                for n in range(count)
            ],
        )
    write_card(folder, {"default": {"train": "train.jsonl"}, "test": {"test": "test.jsonl"}})
    return folder


def make_chinese_ner(folder: Path, rows: int = 40) -> Path:
    """qgyd2021/chinese_ner_sft: a repository with a script, offset entities, every third row without any."""
    entity = {
        "start_idx": 0,
        "end_idx": 2,
        "entity_text": "张华",
        "entity_label": "PER",
        "entity_names": ["人名", "人"],
    }
    write_jsonl(
        folder / "data" / "ccfbdci.jsonl",
        [
            {"text": f"张华看见{n}只鸟 {words_of(n)}", "entities": [entity] if n % 3 else [], "data_source": "CCFBDCI"}
            for n in range(rows)
        ],
    )
    (folder / "chinese_ner_sft.py").write_text("raise SystemExit('a script of the hub was run')\n", encoding="utf-8")
    return folder


def add_lookalikes(hub: HubServer, folder: Path) -> dict[str, str]:
    """Put every named data set on the hub, at the commits that recipes/datasets.yaml pins; the commit of each."""
    pins = {str(entry["id"]): entry.get("revision") for entry in yaml.safe_load(SHIPPED.read_text("utf-8")).values()}
    return {
        name: hub.add("datasets", name, make(folder / name), commit=pins[name])
        for name, make in {
            "Open-Orca/SlimOrca": make_slimorca,
            "qiaojin/PubMedQA": make_pubmedqa,
            "HuggingFaceH4/stack-exchange-preferences": make_stack_exchange,
            "lansinuote/ChnSentiCorp": make_chnsenticorp,
            "swift/zh_cls_fudan-news": make_fudan_news,
            "qgyd2021/chinese_ner_sft": make_chinese_ner,
        }.items()
    }
