"""Disks and permissions: full, read-only, unreadable, in the way, gone."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.attacks import Attack
from tests.faults.commands_apart import Limits

KIND = "disks and permissions"
NOBODY = Limits(
    obeys_permissions=True, env={"HOME": "/proc/nonexistent", "QWEN_SFT_CACHE": None, "XDG_CACHE_HOME": None}
)


def write_rows(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("".join(f'{{"instruction": "Q{i}", "output": "A{i}"}}\n' for i in range(20)))
    (folder / "p.yaml").write_text("sources: {s: {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {s: 5}}}\n")


def prepare(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """Rows, a preset and what else is asked for."""

    def make(folder: Path) -> None:
        write_rows(folder)
        for step in steps:
            step(folder)

    return make


def file_at(name: str, content: str = "in the way") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def folder_at(name: str, mode: int = 0o755) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(mode)

    return make


def mode(name: str, value: int) -> Callable[[Path], object]:
    return lambda folder: (folder / name).chmod(value)


def link(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).symlink_to(to)


def copy(what: str, name: str, *spoilt: tuple[str, int]) -> Callable[[Path], object]:
    """A copy of the run, some of whose files cannot be read or written."""

    def make(folder: Path) -> None:
        target = shutil.copytree(SOURCES[what], folder / name)
        for path in [target, *target.rglob("*")]:
            path.chmod(0o777)
        for part, value in spoilt:
            (target / part).chmod(value)

    return make


SOURCES: dict[str, Path] = {}  # "run" -> its folder: filled in by whoever runs the attacks
TRAIN = "train.py --model {model} --data rows.jsonl --max_steps 1 --dtype fp32 --max_seq_length 384 --output_dir "
BUILD = "build_dataset.py --preset p.yaml --name x --data_dir "
ANSWER = "inference.py --model {model} --max_new_tokens 2 --file rows.jsonl --output "
ASK = "inference.py --model {model} --max_new_tokens 2 --text hi"
PAGE = "inspect_data.py --model {model} -n 1 --data rows.jsonl --html "
EVALUATE = "evaluate.py --num_samples 4 --max_new_tokens 2 --no-yardsticks --run "
EXPORT = "export.py --num_prompts 1 --max_new_tokens 2 --merge --run "
WRITES = {
    "train": TRAIN,
    "build_dataset": BUILD,
    "inference --file": ANSWER,
    "inspect_data --html": PAGE,
    "export": EXPORT + "{run} --output_dir ",
}

ATTACKS = [
    *(
        Attack(KIND, f"{name}: /proc to write to", prepare(), command + "/proc/x/y", "/proc")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: /dev/null as a folder", prepare(), command + "/dev/null/x", "/dev/null")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: a file where a folder is meant", prepare(file_at("f")), command + "f/y", r"\bf\b")
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: a folder nobody may write to",
            prepare(folder_at("d", 0o555)),
            command + "d/y",
            r"\bd\b",
            limits=NOBODY,
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: a folder nobody may enter",
            prepare(folder_at("d", 0o000)),
            command + "d/y",
            r"\bd\b",
            limits=NOBODY,
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND, f"{name}: a link that leads nowhere", prepare(link("l", "/nonexistent/x")), command + "l/y", r"\bl\b"
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: a link that leads to itself", prepare(link("l", "l")), command + "l/y", r"\bl\b")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: a name too long", prepare(), command + "n" * 300, "nnn")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: a path too long", prepare(), command + "n/" * 3000 + "x", "n/n")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: a name with a NUL", prepare(), command + "'a\0b'", "")
        for name, command in WRITES.items()
    ),
    *(
        Attack(KIND, f"{name}: /dev/full to write to", prepare(), command + "/dev/full", "/dev/full|full")
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: files of at most 10 bytes",
            prepare(),
            command + "y",
            "room|large|full",
            leaves=(r"\.?y.*",),
            limits=Limits(file_bytes=10),
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: files of at most 3,000 bytes",
            prepare(),
            command + "y",
            "room|large|full",
            may_work=name in ("inference --file", "build_dataset"),
            leaves=(r"\.?y.*",),
            limits=Limits(file_bytes=3000),
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: an empty file of that name",
            prepare(file_at("y", "")),
            command + "y",
            r"\by\b",
            may_work=name in ("inference --file", "inspect_data --html"),
            leaves=("y", r"\.y.*"),
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: a folder of that name",
            prepare(folder_at("y/x")),
            command + "y",
            r"\by\b",
            may_work=name in ("train", "build_dataset", "export"),
            leaves=(r"y/.*",),
        )
        for name, command in WRITES.items()
    ),
    *(
        Attack(
            KIND,
            f"{name}: standard output full",
            prepare(),
            command + "y",
            "standard output|output",
            leaves=(r"\.?y.*",),
            limits=Limits(stdout="/dev/full"),
        )
        for name, command in WRITES.items()
    ),
    Attack(
        KIND,
        "inspect_data --html: a page half of which there is room for",
        prepare(),
        PAGE + "y",
        "large|room|full",
        limits=Limits(file_bytes=5000),
    ),
    Attack(
        KIND,
        "inference --text: standard output full",
        prepare(),
        ASK,
        "standard output",
        limits=Limits(stdout="/dev/full"),
    ),
    Attack(
        KIND,
        "chat: standard output full",
        prepare(),
        "chat.py --model {model} --max_new_tokens 2",
        "output",
        limits=Limits(stdout="/dev/full", stdin="hi\n"),
        leaves=("outputs/chats/.*",),
    ),
    Attack(
        KIND,
        "inspect_data: standard output full",
        prepare(),
        "inspect_data.py --model {model} --data rows.jsonl",
        "standard output",
        limits=Limits(stdout="/dev/full"),
    ),
    Attack(
        KIND,
        "help: standard output full",
        prepare(),
        "train.py --help",
        "standard output",
        limits=Limits(stdout="/dev/full"),
    ),
    Attack(
        KIND,
        "evaluate: standard output full",
        prepare(copy("run", "r")),
        EVALUATE + "r",
        "standard output",
        limits=Limits(stdout="/dev/full"),
        leaves=("r/evaluation/.*",),
    ),
    *(
        Attack(
            KIND,
            f"rows nobody may read: {name}",
            prepare(mode("rows.jsonl", 0)),
            command,
            "rows.jsonl",
            limits=NOBODY,
            leaves=(r"d/\.x\.partial/.*",),
        )
        for name, command in {
            "inspect_data": "inspect_data.py --model {model} --data rows.jsonl",
            "train": TRAIN + "o",
            "inference --file": ANSWER + "a.jsonl",
            "build_dataset": BUILD + "d",
        }.items()
    ),
    *(
        Attack(
            KIND,
            f"a file of the run nobody may read: {part} ({name})",
            prepare(copy("run", "r", (part, 0))),
            command,
            part.split("/")[-1],
            limits=NOBODY,
        )
        for part in (
            "run.json",
            "adapter",
            "adapter/adapter_model.safetensors",
            "adapter/adapter_config.json",
            "adapter/tokenizer.json",
            "adapter/tokenizer_config.json",
            "adapter/chat_template.jinja",
        )
        for name, command in {
            "inference": "inference.py --run r --max_new_tokens 2 --text hi",
            "evaluate": EVALUATE + "r",
        }.items()
    ),
    *(
        Attack(
            KIND,
            f"a file of the model nobody may read: {part}",
            prepare(copy("model", "m", (part, 0))),
            "inference.py --model m --max_new_tokens 2 --text hi",
            part,
            limits=NOBODY,
            may_work=part == "generation_config.json",
        )
        for part in (
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "chat_template.jinja",
        )
    ),
    Attack(
        KIND,
        "a run that cannot be written to, evaluated",
        prepare(copy("run", "r", (".", 0o555))),
        EVALUATE + "r",
        r"\br\b",
        limits=NOBODY,
    ),
    Attack(
        KIND,
        "an evaluation folder that is a file",
        prepare(copy("run", "r"), file_at("r/evaluation")),
        EVALUATE + "r",
        "evaluation",
    ),
    Attack(
        KIND,
        "an evaluation folder that cannot be written to",
        prepare(copy("run", "r"), folder_at("r/evaluation", 0o555)),
        EVALUATE + "r",
        "evaluation",
        limits=NOBODY,
    ),
    Attack(
        KIND,
        "evaluate: files of at most 10 bytes",
        prepare(copy("run", "r")),
        EVALUATE + "r",
        "room|large|full",
        limits=Limits(file_bytes=10),
        leaves=("r/.*",),
    ),
    Attack(
        KIND,
        "evaluate: files of at most 3,000 bytes",
        prepare(copy("run", "r")),
        EVALUATE + "r",
        "room|large|full",
        limits=Limits(file_bytes=3000),
        leaves=("r/.*",),
    ),
    Attack(
        KIND,
        "a run whose checkpoints cannot be written, resumed",
        prepare(copy("run", "r", ("checkpoints", 0o555))),
        "train.py --output_dir r --resume_from_checkpoint auto --max_steps 8",
        r"\br\b",
        limits=NOBODY,
        leaves=("r/.*",),
    ),
    Attack(
        KIND,
        "a run whose log cannot be written, resumed",
        prepare(copy("run", "r", ("log.jsonl", 0o444))),
        "train.py --output_dir r --resume_from_checkpoint auto --max_steps 8",
        "log.jsonl",
        limits=NOBODY,
        may_work=True,
        leaves=("r/.*",),
    ),
    Attack(KIND, "no HOME: another model", prepare(), ASK, may_work=True, limits=Limits(env={"HOME": None})),
    Attack(
        KIND,
        "no HOME and no user: the embedded model",
        prepare(),
        "inference.py --model embedded --max_new_tokens 2 --text hi",
        "HOME|home|cache|nonexistent",
        limits=NOBODY,
    ),
    Attack(
        KIND,
        "a cache that is a file",
        prepare(file_at("c")),
        "inference.py --model embedded --max_new_tokens 2 --text hi",
        r"\bc\b",
        limits=Limits(env={"QWEN_SFT_CACHE": "c"}),
    ),
    Attack(
        KIND,
        "a cache in /proc",
        prepare(),
        "inference.py --model embedded --max_new_tokens 2 --text hi",
        "/proc",
        limits=Limits(env={"QWEN_SFT_CACHE": "/proc/x"}),
    ),
    Attack(
        KIND,
        "a cache that is full",
        prepare(),
        "inference.py --model embedded --max_new_tokens 2 --text hi",
        "room|full|large",
        limits=Limits(seconds=100, file_bytes=1_000_000, env={"QWEN_SFT_CACHE": "c"}),
        leaves=("c/.*",),
    ),
    Attack(
        KIND,
        "no folder for temporary files",
        prepare(),
        BUILD + "d",
        "tmp|temporary|room",
        limits=Limits(env={"TMPDIR": "/nonexistent"}),
        may_work=True,
    ),
    Attack(KIND, "little memory: ask", prepare(), ASK, "memory|room", limits=Limits(memory_gb=1.3), may_work=True),
    Attack(
        KIND,
        "little memory: train",
        prepare(),
        TRAIN + "o",
        "memory|room",
        limits=Limits(memory_gb=1.3),
        may_work=True,
        leaves=("o/.*",),
    ),
    Attack(
        KIND,
        "chats nobody may read",
        prepare(folder_at("chats", 0)),
        "chat.py --model {model} --max_new_tokens 2",
        "chats",
        limits=Limits(obeys_permissions=True, stdin="hi\n/save x\n/load x\n"),
        may_work=True,
    ),
    Attack(
        KIND,
        "chats in a file's place",
        prepare(file_at("chats")),
        "chat.py --model {model} --max_new_tokens 2",
        "chats",
        limits=Limits(stdin="hi\n/save x\n/load x\n"),
        may_work=True,
    ),
    Attack(
        KIND,
        "a chat nobody may read",
        prepare(folder_at("chats"), file_at("chats/x.json"), mode("chats/x.json", 0)),
        "chat.py --model {model} --max_new_tokens 2",
        "chats",
        limits=Limits(obeys_permissions=True, stdin="/load x\n"),
        may_work=True,
    ),
    Attack(
        KIND,
        "outputs in a file's place",
        prepare(file_at("outputs")),
        TRAIN.replace("--output_dir ", ""),
        "outputs",
        limits=Limits(),
    ),
    Attack(
        KIND,
        "outputs nobody may write to",
        prepare(folder_at("outputs", 0o555)),
        TRAIN.replace("--output_dir ", ""),
        "outputs",
        limits=NOBODY,
    ),
    Attack(
        KIND, "data in a file's place", prepare(file_at("data")), "build_dataset.py --preset p.yaml --name x", "data"
    ),
    Attack(
        KIND,
        "a dataset's rows nobody may read",
        prepare(lambda d: build_folder(d / "x"), mode("x/train.jsonl", 0)),
        TRAIN.replace("rows.jsonl", "x") + "o",
        "train.jsonl",
        limits=NOBODY,
    ),
    Attack(
        KIND,
        "a dataset's manifest nobody may read",
        prepare(lambda d: build_folder(d / "x"), mode("x/manifest.json", 0)),
        TRAIN.replace("rows.jsonl", "x") + "o",
        "manifest.json",
        limits=NOBODY,
    ),
    Attack(
        KIND,
        "names of data sets nobody may read",
        prepare(file_at("dataset_info.json", "{}"), mode("dataset_info.json", 0)),
        TRAIN.replace("rows.jsonl", "name") + "o",
        "dataset_info.json|name",
        limits=NOBODY,
    ),
]


def build_folder(folder: Path) -> None:
    """A dataset folder as build_dataset.py writes it."""
    from sft.data.building.build import build_dataset
    from sft.data.building.manifest import BuildOptions
    from sft.data.building.preset import Preset

    here = os.getcwd()
    os.chdir(folder.parent)
    preset = Preset.model_validate(
        {"splits": {"train": {"rows": {"s": 15}}}, "sources": {"s": {"kind": "file", "path": "rows.jsonl"}}}
    )
    build_dataset(preset, folder, BuildOptions())
    os.chdir(here)
