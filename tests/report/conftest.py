"""An evaluation made up by hand that has everything a report can show, and a browser to look at it with."""

import copy
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sft.evaluation.flow import Evaluation

LOSS = {"eval_loss": 1.5, "perplexity": 4.4817, "bits_per_byte": 0.5, "supervised_tokens": 40, "num_rows": 4}
GENERATION = {
    "empty_rate": 0.0,
    "unfinished_rate": 0.25,
    "unparseable_rate": 0.0,
    "avg_pred_len_tokens": 3.0,
    "avg_ref_len_tokens": 2.0,
    "len_ratio_pred_over_ref": 1.5,
    "distinct_1": 0.5,
    "distinct_2": 0.75,
    "num_rows": 4,
    "by_task": {},
    "distinct_signature": "distinct:corpus",
    "text": {
        "bleu": 12.5,
        "chrf": 30.25,
        "exact_match": 0.5,
        "num_rows": 4,
        "tasks": ["instruct"],
        "signatures": {"bleu": "tok:zh|version:2.6.0", "chrf": "nc:6", "exact_match": "exact:equal after strip"},
    },
    "other": {"wer": {"figures": {"wer": 0.4}, "left_out": [], "num_rows": 4, "signature": "evaluate:0.4.6|wer"}},
}
LABELS = {
    "accuracy": 0.75,
    "macro_precision": 0.7,
    "macro_recall": 0.8,
    "macro_f1": 0.75,
    "roc_auc": {"macro": 0.85, "per_class": {"负面": 0.85, "正面": 0.85}},
    "confusion_matrix": {
        "references": ["负面", "正面"],
        "predictions": ["负面", "正面", "(none of the labels)"],
        "counts": [[10, 2, 1], [3, 14, 0]],
    },
    "per_class": {
        label: {"precision": 0.7, "recall": 0.8, "f1": 0.75, "support": 13 + place}
        for place, label in enumerate(("负面", "正面"))
    },
}
ENTITIES = {"precision": 0.5, "recall": 0.25, "f1": 0.3333, "found": 1, "predicted": 2, "support": 4}
SIDE = {
    "intervals": {"sentiment accuracy": {"low": 0.6, "high": 0.8667, "num_units": 30}},
    "teacher_forcing": {
        **LOSS,
        "by_source": {"reviews": LOSS, "newspaper": LOSS},
        "by_task": {"sentiment": LOSS},
        "by_length": {"1-64": LOSS, "65-128": LOSS},
        "by_language": {"zh": LOSS},
    },
    "generation": GENERATION,
    "classification": {
        "accuracy": 0.75,
        "num_rows": 30,
        "by_task": {"sentiment": {"label_scoring": LABELS, "accuracy_per_token": 0.75, "generation": LABELS}},
    },
    "calibration": {
        "by_task": {
            "sentiment": {
                "ece": 0.1,
                "ece_low": 0.02,
                "ece_high": 0.14,
                "ece_floor": 0.05,
                "brier": 0.3,
                "avg_confidence": 0.8,
                "share_above_high": 0.4,
                "reliability": [
                    {"confidence": 0.6, "accuracy": 0.5, "num_rows": 15, "low": 0.5, "high": 0.7},
                    {"confidence": 0.9, "accuracy": 0.95, "num_rows": 15, "low": 0.7, "high": 1.0},
                ],
                "temperature": {"ece": 0.05},
            }
        }
    },
    "ner": {
        **ENTITIES,
        "by_type": {"PER": ENTITIES},
        "partial": {"f1": 0.4167, "by_type": {"PER": {"f1": 0.4167}}},
    },
}
FIGURE = {
    "base": 0.5,
    "tuned": 0.9,
    "difference": 0.4,
    "low": 0.3,
    "high": 0.5,
    "p_value": 0.001,
    "p_holm": 0.001,
    "test": "mcnemar",
    "higher_is_better": True,
    "finding": "better",
    "num_rows": 4,
    "rows_fixed": 60,
    "rows_broken": 2,
    "smallest_detectable": 0.11,
}
TEST = {
    "num_rows": 10,
    "changed_share": 0.9,
    "original_accuracy": 0.8,
    "perturbed_accuracy": 0.6,
    "score": 0.75,
    "flip_rate": 0.3,
}
SLICE = {"base": 0.5, "tuned": 0.9, "difference": 0.4, "num_rows": 2, "rows_fixed": 1, "rows_broken": 0}
LONG_WORD = "https://example.org/" + "a" * 300


def make_prediction(name: str, **changes: object) -> dict:
    """A line of predictions.jsonl; the tuned answer is right."""
    row = {
        "id": name,
        "source": "reviews",
        "task": "sentiment",
        "language": "zh",
        "instruction": "房间很干净，服务也好。",
        "input": "",
        "reference": "正面",
        "prediction": "正面",
        "base_prediction": "我认为是正面的",
        "finished": True,
        "base_finished": True,
        "nll": 1.0,
        "base_nll": 2.0,
        "row_tokens": 40,
        "reference_tokens": 2,
        "prediction_tokens": 2,
        "changes": {},
    }
    return row | changes


@pytest.fixture
def evaluation() -> Evaluation:
    """Two rows; tests change what they look at."""
    metrics = {
        **copy.deepcopy(SIDE),
        "base": copy.deepcopy(SIDE),
        "comparison": {
            "outcome": "helped",
            "verdict": "Tuning helped.",
            "verdict_zh": "微调有效。",
            "metrics": {"sentiment accuracy": copy.deepcopy(FIGURE)},
            "slices": {"source": {"reviews": {"sentiment accuracy": SLICE}, "newspaper": {"ner f1": SLICE}}},
        },
        "leaks": {
            "checked": True,
            "training_rows": 1092,
            "exact": 0,
            "near": 0,
            "share": 0.0,
            "ids": [],
            "signature": "exact:nfkc",
        },
        "data_stats": {
            "eval_size": 4,
            "num_answers": 4,
            "turns": "all",
            "truncation_rate": 0.25,
            "dropped_too_long": 1,
            "split": "test",
            "data": "mixed",
            "sha256": "ab" * 32,
        },
        "run": {
            "name": "demo",
            "base_model": {"name": "embedded"},
            "baseline": {"kind": "base", "name": "embedded"},
            "training": {
                "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
                "method": "LoRA r 16, alpha 32",
                "data": "mixed",
                "rows": 1092,
                "epochs": 1.2,
                "steps": 328,
                "learning_rate": 0.002,
                "rows_per_step": 4,
                "max_seq_length": 384,
                "hardware": "AMD EPYC, 2 threads",
                "duration_s": 180.0,
                "peak_gb": 2.4,
            },
            "fingerprint": "cd" * 32,
            "max_new_tokens": {"sentiment": 15},
            "decoding": "greedy",
            "generator": "transformers",
            "seed": 42,
            "versions": {"torch": "2.13.0"},
            "git_revision": None,
        },
        "artifacts": {},
    }
    log = [{"step": step, "loss": 5.0 / (step + 1)} for step in range(50)] + [{"step": 49, "eval_loss": 0.3}]
    return Evaluation(metrics, [make_prediction("a"), make_prediction("b")], log)


@pytest.fixture
def full_evaluation(evaluation) -> Evaluation:
    """Everything at once, long words and many rows among it: what a page has to find room for."""
    evaluation.metrics["leaks"] |= {"exact": 1, "near": 1, "share": 0.5, "ids": ["a", "b"]}
    evaluation.metrics["without_overlaps"] = {
        **copy.deepcopy(SIDE),
        "num_rows": 2,
        "base": copy.deepcopy(SIDE),
        "comparison": copy.deepcopy(evaluation.metrics["comparison"]),
    }
    evaluation.metrics["robustness"] = {
        "overall": TEST,
        "tests": {"synonyms": TEST, "typos": TEST},
        "hard_cases": {
            "overall": {"num_rows": 2, "num_right": 1, "accuracy": 0.5},
            "by_category": {"negation": {"num_rows": 2, "num_right": 1, "accuracy": 0.5}},
        },
    }
    evaluation.metrics["generation"]["rouge"] = evaluation.metrics["base"]["generation"]["rouge"] = {
        "rouge1": 0.1, "rouge2": 0.1, "rougeL": 0.1, "num_rows": 2, "tasks": ["chat"], "signature": "rouge|" + "x" * 90,
    }  # fmt: skip
    evaluation.predictions.extend(
        make_prediction(
            f"row-{number}",
            prediction=LONG_WORD if number % 5 == 0 else "负面",
            prediction_tokens=number * 7,
            nll=3.0,
            finished=number % 2 == 0,
            changes={"sentiment accuracy": "broken" if number % 3 else "fixed"},
            overlap={"kind": "near", "training_id": "reviews-17", "similarity": 0.8},
        )
        for number in range(30)
    )
    return evaluation


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HARNESS = """<!doctype html><meta charset="utf-8"><body><pre id="found"></pre><script>
const frames = [390, 1400].map(width => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:2000px;border:0`;
  frame.srcdoc = %s;
  document.body.append(frame);
  return new Promise(done => frame.onload = () => done([width, frame]));
});
Promise.all(frames).then(loaded => {
  document.getElementById("found").textContent = JSON.stringify(loaded.map(([width, frame]) => {
    const page = frame.contentDocument, view = frame.contentWindow;
    page.querySelectorAll("details").forEach(part => part.open = true);
    const cut = [...page.body.querySelectorAll("*")].filter(part => {
      const box = part.getBoundingClientRect();
      return box.width && !part.closest("svg > *") && (box.right > width + 1 || box.left < -1);
    });
    const hidden = [...page.querySelectorAll(".wide")].filter(part => part.scrollWidth > part.clientWidth + 1);
    return {
      width, page: page.documentElement.scrollWidth, cut: cut.map(part => part.outerHTML.slice(0, 120)),
      scrolling: hidden.map(part => part.outerHTML.slice(0, 120)),
      dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
      ink: view.getComputedStyle(page.body).color, requests: view.performance.getEntriesByType("resource").length,
      shown: page.querySelector("main").innerText.includes("微调有效") ? "zh" : "en",
    };
  }));
});
</script>"""


def find_browser() -> str | None:
    """A Chromium on this machine, None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def measure_page(page: str, folder: Path, *, dark: bool) -> list[dict]:
    """What a browser makes of a page at 390 and 1,400 pixels: width, elements cut off, colour of the text, requests."""
    harness = folder / "harness.html"
    harness.write_text(HARNESS % json.dumps(page).replace("<", "\\u003c"), encoding="utf-8")
    command = [str(find_browser()), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", harness.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-500:]
    return json.loads(html.unescape(found[1]))
