"""Run many trainings side by side on one card or machine and print a JSON line for each, in order of importance.

A file lists the studies. Every combination of a study's grid is one training on rows drawn with its seed, tested on the
same rows.

    - study: small data
      data: [reviews, topics]            # FOLDER/reviews.train.jsonl, .test.jsonl and, if there is one, .task.yaml
      rows: [60, 300]                    # training rows; leave it out for all
      seeds: [1]
      flags: {method: lora}              # settings of train.py for all of them
      grid: {learning_rate: [2.0e-4, 1.0e-3], num_train_epochs: [5, 10]}

    python -m benchmarks.sweep studies.yaml --folder data --workers 12 --seconds 280

Without --yardsticks a line has the model's figures only. --seconds: no training starts that is not expected to end in
time; what still runs at the end is stopped and not reported.
"""

import argparse
import contextlib
import gc
import itertools
import json
import math
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

Trial = dict[str, Any]  # study, data, rows, seed, flags
COMMON = {
    "model": "embedded",
    "system_prompt": "You are a helpful assistant.",
    "max_seq_length": 384,
    "eval_steps": 10**6,
}


def main() -> int:
    """Run the studies; 0 if every training that started succeeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("data"), help="folder of the rows")
    parser.add_argument("--workers", type=int, default=1, help="trainings at once, each on its own core")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--max_steps", type=int, help="steps per training, to try the file out")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--yardsticks", action="store_true", help="also fit the yardsticks on the same rows")
    options = parser.parse_args()
    trials = list(list_trials(yaml.safe_load(options.studies.read_text(encoding="utf-8"))))
    for trial in trials:
        trial["flags"] = {**COMMON, "model": options.model, **trial["flags"]}
        if options.max_steps:
            trial["flags"]["max_steps"] = options.max_steps
    failed = 0
    for line in run_trials(trials, options.folder, options.workers, options.seconds, yardsticks=options.yardsticks):
        print(json.dumps(line, ensure_ascii=False), flush=True)
        failed += "error" in line
    return int(failed > 0)


def list_trials(studies: Iterable[dict[str, Any]]) -> Iterator[Trial]:
    """Every combination of every study, in their order."""
    for study in studies:
        grid = study.get("grid", {})
        names = study["data"] if isinstance(study["data"], list) else [study["data"]]
        choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        for seed, rows, flags, name in itertools.product(
            study.get("seeds", [1]), study.get("rows", [None]), choices, names
        ):
            flags = {**study.get("flags", {}), **flags}
            yield {"study": study["study"], "data": name, "rows": rows, "seed": seed, "flags": flags, "chosen": flags}


def run_trials(
    trials: list[Trial], folder: Path, workers: int, seconds: float, *, yardsticks: bool
) -> Iterator[dict[str, Any]]:
    """The trainings as they finish; `{"done": 80, "of": 100, ...}` last."""
    context = multiprocessing.get_context("spawn")
    began = time.time()
    wanted, found = context.Queue(), context.Queue()
    for trial in trials:
        wanted.put(trial)
    for _ in range(workers):
        wanted.put(None)
    ends = began + seconds
    team = [
        context.Process(target=work, args=(wanted, found, folder, ends, yardsticks), daemon=True)
        for _ in range(workers)
    ]
    for one in team:
        one.start()
    left, done = workers, 0
    while left and (wait := ends - time.time()) > 0:
        with contextlib.suppress(queue.Empty):
            line = found.get(timeout=min(wait, 5))
            left -= line is None
            if line is not None:
                done += "error" not in line
                yield line
        if not any(one.is_alive() for one in team) and found.empty():
            break
    for one in team:
        one.kill()
    yield {"done": done, "of": len(trials), "seconds": round(time.time() - began, 1)}


def work(wanted: Any, found: Any, folder: Path, ends: float, yardsticks: bool) -> None:
    """Import once, then train one after the other while there is time."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 -- the project narrates; hundreds of runs would not be read
    import torch

    torch.set_num_threads(1)
    slowest_step = 0.0
    while (trial := wanted.get()) is not None:
        if time.time() + slowest_step * expected_steps(trial) > ends:
            continue  # a shorter one may still fit
        began = time.time()
        try:
            figures = run_trial(trial, folder, yardsticks=yardsticks)
            slowest_step = max(slowest_step, (time.time() - began) / max(figures["steps"], 30))
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        described = {name: trial[name] for name in ("study", "data", "rows", "seed")}
        found.put({**described, **trial["chosen"], **figures, "seconds": round(time.time() - began, 1)})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    found.put(None)


def expected_steps(trial: Trial) -> float:
    """Steps of a training, estimated from its flags and rows."""
    flags = trial["flags"]
    per_step = flags.get("per_device_train_batch_size", 2) * flags.get("gradient_accumulation_steps", 4)
    return flags.get("max_steps") or (trial["rows"] or 1000) / per_step * flags.get("num_train_epochs", 3)


def run_trial(trial: Trial, folder: Path, *, yardsticks: bool = False) -> dict[str, Any]:
    """Train, answer the test rows and return the result: steps, loss, times, memory, and figures by task."""
    import torch

    from sft.config.layers import load_settings
    from sft.config.train import TrainSettings
    from sft.data import open_dataset_of
    from sft.training.fit import build_trainer, prepare
    from sft.training.log import peak_memory_gb

    name, seed = trial["data"], trial["seed"]
    flags = {"seed": seed, "data": folder / f"{name}.train.jsonl", **trial["flags"]}
    flags["validation_data"] = folder / f"{name}.test.jsonl"
    if (task := folder / f"{name}.task.yaml").is_file():
        flags["task"] = task
    settings = load_settings(
        TrainSettings, [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]
    )
    dataset = open_dataset_of(settings)
    if trial["rows"] and trial["rows"] < len(dataset.train):
        dataset.train[:] = random.Random(seed).sample(dataset.train, trial["rows"])
    prepared = prepare(settings, dataset, "transformers")
    with tempfile.TemporaryDirectory() as checkpoints:
        # planned as train.py does it: without a plan nothing is recorded, and a small model waits for Python
        trainer = build_trainer(settings, prepared, Path(checkpoints), on_rehearsed=lambda plan: None)
        trainer.args.eval_strategy = trainer.args.save_strategy = "no"
        trainer.args.load_best_model_at_end = False
        began = time.monotonic()
        trainer.train()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    took = time.monotonic() - began
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    last = losses[-max(1, len(losses) // 10) :]
    return {
        "steps": trainer.state.global_step,
        "train_loss": round(sum(last) / len(last), 4),
        "train_s": round(took, 1),
        "peak_gb": round(peak_memory_gb(), 2),
        **measure(prepared, settings, yardsticks=yardsticks),
    }


def measure(prepared: Any, settings: Any, *, yardsticks: bool = False) -> dict[str, Any]:
    """Figures of the validation rows as evaluate.py has them: accuracy and macro F1, strict F1 by type, ROUGE-L.

    accuracy_clean: without the rows whose text stands in the training rows, where there are any.
    """
    from sft.data.rows.canonical import question_of
    from sft.evaluation.model_answers import Asking, answer_rows, classes_of, plan_budgets, read_outcomes
    from sft.evaluation.rows import prepare_rows
    from sft.evaluation.yardsticks import apply_yardsticks
    from sft.generation.writers import TransformersWriter
    from sft.metrics.classification import summarise_labels
    from sft.metrics.entities import summarise_entities
    from sft.text import normalise_text

    loaded = prepared.loaded
    loaded.model.eval()
    rows = prepare_rows(
        prepared.dataset.validation,
        loaded.chat,
        prepared.system_prompts.chosen,
        settings,
        settings.max_seq_length,
        loaded.head,
    ).rows
    written = [row for row in rows if row.task.kind != "label"]
    budgets = {} if loaded.head else plan_budgets(written, loaded, 256) if written else {}
    asking = Asking(None if loaded.head else TransformersWriter(loaded))
    answers = answer_rows(loaded, rows, budgets, "tuned", asking=asking)
    outcomes = read_outcomes(rows, answers, loaded.chat)
    seen = {normalise_text(question_of(row)) for row in prepared.dataset.train}
    in_training = [normalise_text(question_of(row.row)) in seen for row in rows]
    figures: dict[str, Any] = {"loss": round(sum(answers.nll) / sum(answers.num_tokens), 4)}
    for task in dict.fromkeys(row.task.name for row in rows):
        places = [place for place, row in enumerate(rows) if row.task.name == task]
        part = [outcomes[place] for place in places]
        kind = rows[places[0]].task.kind
        if kind == "label":
            said = [one.scored or "" for one in part]
            found = summarise_labels([one.reference or "" for one in part], said, classes_of([rows[p] for p in places]))
            figures |= {"accuracy": round(found["accuracy"], 4), "macro_f1": round(found["macro_f1"], 4)}
            if any(in_training[place] for place in places):
                hits = [outcomes[p].scored == outcomes[p].reference for p in places if not in_training[p]]
                figures["accuracy_clean"] = round(sum(hits) / len(hits), 4)
            figures["most_said"] = round(max(map(said.count, set(said))) / len(said), 3)
        elif kind == "entities":
            ner = summarise_entities([one.entities for one in part if one.entities])
            by_type = {label: round(one["f1"], 4) for label, one in ner["by_type"].items()}
            figures |= {"ner_f1": round(ner["f1"], 4), "by_type": by_type}
        else:
            from rouge_score.rouge_scorer import RougeScorer

            scorer = RougeScorer(["rougeL"], use_stemmer=False)
            scores = [scorer.score(rows[p].reference, answers.texts[p])["rougeL"].fmeasure for p in places]
            figures["rougeL"] = round(sum(scores) / len(scores), 4)
            figures["examples"] = [(rows[p].reference, answers.texts[p]) for p in places[:4]]
    if yardsticks and (applied := apply_yardsticks(rows, prepared.dataset.train, asked=True)):
        for one in applied.found:
            if one.kind != "dictionary":
                hits = [o.scored == o.reference for o in one.outcomes.values()]
                figures[one.kind] = round(sum(hits) / len(hits), 4)
            else:
                counts = [o.entities for o in one.outcomes.values() if o.entities]
                figures[one.kind] = round(summarise_entities(counts)["f1"], 4)
    return figures


if __name__ == "__main__":
    sys.exit(main())
