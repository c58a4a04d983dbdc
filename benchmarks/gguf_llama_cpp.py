"""Does llama.cpp make the same prompts and answers from exported GGUF files as the run does?

Needs `python export.py --gguf f16,q8_0,q4_k_m` of a run, and a Python that has llama-cpp-python (it builds from source
in four minutes, so it is no dependency): `LLAMA_PYTHON=scratch/bin/python python -m benchmarks.gguf_llama_cpp`.

The run (base and adapter, fp32) answers held-out rows greedily. Each file is loaded by llama.cpp, which answers them
through its own chat completion, so with the file's chat template and end token, and token by token from the template's
ids. Exit code 1 if a prompt has other ids, an answer continues after its end token, or fewer first tokens agree than
export.py allows.
"""

import json
import os
import subprocess
import sys

import torch

from sft.config.decoding import choose_decoding
from sft.config.evaluate import EvaluateSettings
from sft.evaluation.rows import prepare_rows, select_rows
from sft.export.flow import LIMITS
from sft.generation import generate_batch
from sft.models.loading import load_run
from sft.models.precision import Precision
from sft.runs.run import open_run

NUM_ROWS, NUM_TOKENS = 50, 24
WORKER = """
import json, sys, time
from llama_cpp import Llama
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
asked = json.load(sys.stdin)
llm = Llama(asked["path"], n_ctx=2048, verbose=False, n_threads=1)
ends = llm.token_eos()
name = llm.detokenize([ends], special=True).decode()
template = Jinja2ChatFormatter(llm.metadata["tokenizer.chat_template"], eos_token=name, bos_token="")
found, started, written = [], time.time(), 0
for turns in asked["turns"]:
    ids = llm.tokenize(template(messages=turns).prompt.encode(), add_bos=False, special=True)
    llm.reset()
    answer = []
    for token in llm.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        answer.append(token)
        if token == ends or len(answer) == asked["num_tokens"]:
            break
    chat = llm.create_chat_completion(turns, temperature=0.0, repeat_penalty=1.0, max_tokens=asked["num_tokens"])
    said, used = chat["choices"][0], chat["usage"]
    found.append({"ids": ids, "answer": answer, "text": said["message"]["content"],
                  "finish_reason": said["finish_reason"], "prompt_tokens": used["prompt_tokens"]})
    written += len(answer) + used["completion_tokens"]
print(json.dumps({"rows": found, "end": ends, "duration_s": time.time() - started, "tokens": written}))
"""


def main() -> int:
    """Compare every exported file with its run; 0 if llama.cpp makes the same prompts and answers."""
    run = open_run(sys.argv[1] if len(sys.argv) > 1 else None)
    loaded = load_run(run, precision=Precision("cpu", torch.float32, "to compare without rounding"), four_bit=False)
    chosen = select_rows(run, EvaluateSettings(num_samples=NUM_ROWS)).rows
    trained = run.train_settings()
    rows = prepare_rows(chosen, loaded.chat, run.system_prompt, trained, trained.max_seq_length).rows
    decoding = choose_decoding("precise", max_new_tokens=NUM_TOKENS)
    expected = generate_batch(loaded, [row.prompt_ids for row in rows], decoding)
    result: dict[str, object] = {"rows": len(rows)}
    is_good = True
    for path in sorted((run.path / "export" / "gguf").glob("*.gguf")):
        turns = [[{"role": "user", "content": row.question}] for row in rows]
        asked = json.dumps({"path": str(path), "turns": turns, "num_tokens": NUM_TOKENS})
        python = os.environ.get("LLAMA_PYTHON", sys.executable)
        done = subprocess.run([python, "-c", WORKER], input=asked, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        said = found["rows"]
        answers = [answer.token_ids + [found["end"]] * answer.finished for answer in expected]
        kind = path.stem.rsplit("-", 1)[-1]
        figures = {
            "bytes": path.stat().st_size,
            "end_token_is_the_runs": found["end"] in loaded.chat.end_ids,
            "same_prompt_ids": sum(one["ids"] == row.prompt_ids for one, row in zip(said, rows, strict=True)),
            "chat_prompt_of_the_same_length": sum(one["prompt_tokens"] == len(one["ids"]) for one in said),
            "same_first_token": sum(one["answer"][:1] == own[:1] for one, own in zip(said, answers, strict=True)),
            "same_answer": sum(one["answer"] == own[:NUM_TOKENS] for one, own in zip(said, answers, strict=True)),
            "chat_ends_with_the_end_token": sum(
                (one["finish_reason"] == "stop") == (one["answer"][-1] == found["end"]) for one in said
            ),
            "tokens_per_second": round(found["tokens"] / found["duration_s"], 1),
        }
        result[kind] = figures
        print(kind, figures)
        is_good &= bool(figures["end_token_is_the_runs"]) and figures["same_prompt_ids"] == len(rows)
        is_good &= figures["chat_ends_with_the_end_token"] == figures["chat_prompt_of_the_same_length"] == len(rows)
        is_good &= float(figures["same_first_token"]) / len(rows) >= LIMITS[kind].first_tokens
    print(json.dumps(result))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
