"""What llama.cpp itself makes of exported GGUF files: prompts by the embedded chat template, first tokens, speed.

Needs `python export.py --merge --gguf f16,q8_0,q4_k_m` of a run, and a Python that has llama-cpp-python (it builds from
source in four minutes, so it is no dependency): `LLAMA_PYTHON=scratch/bin/python python -m benchmarks.gguf_llama_cpp`.
"""

import json
import os
import subprocess
import sys

from sft.config.decoding import choose_decoding
from sft.config.evaluate import EvaluateSettings
from sft.evaluation.rows import prepare_rows, select_rows
from sft.generation import generate_batch
from sft.models.loading import load_base
from sft.runs import open_run

NUM_ROWS, NUM_TOKENS = 20, 8
WORKER = """
import json, sys, time
from llama_cpp import Llama
asked = json.load(sys.stdin)
llm = Llama(asked["path"], n_ctx=2048, verbose=False, n_threads=1)
template = llm.metadata["tokenizer.chat_template"]
import jinja2.sandbox
render = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
found, started, written = [], time.time(), 0
for turns in asked["turns"]:
    text = render(messages=turns, add_generation_prompt=True)
    ids = llm.tokenize(text.encode(), add_bos=False, special=True)
    llm.reset()
    answer = []
    for token in llm.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        if token == llm.token_eos() or len(answer) == asked["num_tokens"]:
            break
        answer.append(token)
    found.append([ids, answer])
    written += len(answer)
print(json.dumps({"rows": found, "duration_s": time.time() - started, "tokens": written}))
"""


def main() -> None:
    """Compare every file of a run's export with the merged folder beside it."""
    run = open_run(sys.argv[1] if len(sys.argv) > 1 else None)
    export = run.path / "export"
    loaded = load_base(str(export / "merged"), dtype="fp32")
    chosen = select_rows(run, EvaluateSettings(num_samples=NUM_ROWS)).rows
    trained = run.train_settings()
    rows = prepare_rows(chosen, loaded.chat, run.system_prompt, trained, trained.max_seq_length).rows
    decoding = choose_decoding("precise", max_new_tokens=NUM_TOKENS)
    expected = [answer.token_ids for answer in generate_batch(loaded, [row.prompt_ids for row in rows], decoding)]
    result: dict[str, object] = {"rows": len(rows)}
    for path in sorted((export / "gguf").glob("*.gguf")):
        turns = [[{"role": "user", "content": row.question}] for row in rows]
        asked = json.dumps({"path": str(path), "turns": turns, "num_tokens": NUM_TOKENS})
        python = os.environ.get("LLAMA_PYTHON", sys.executable)
        done = subprocess.run([python, "-c", WORKER], input=asked, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        pairs = list(zip(found["rows"], rows, expected, strict=True))
        kind = path.stem.rsplit("-", 1)[-1]
        result[kind] = {
            "same_prompt_ids": sum(ids == row.prompt_ids for (ids, _), row, _ in pairs),
            "same_first_token": sum(answer[:1] == wanted[:1] for (_, answer), _, wanted in pairs),
            "same_first_tokens": sum(answer == wanted for (_, answer), _, wanted in pairs),
            "tokens_per_second": round(found["tokens"] / found["duration_s"], 1),
        }
        print(kind, result[kind])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
