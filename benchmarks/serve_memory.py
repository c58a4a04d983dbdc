"""Send 1,000 requests from 32 clients at once: is any lost, how fast are they, and does memory grow?

    python -m benchmarks.serve_memory --model embedded
    python -m benchmarks.serve_memory --run outputs/demo

Starts serve.py as a process and uses OpenAI's client. Exit code 1 if an answer is missing, or if memory grew by more
than 5 % after the first 200 requests.
"""

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import psutil

NUM_REQUESTS, NUM_WARM, NUM_CLIENTS, NUM_TOKENS = 1000, 200, 32, 16
ALLOWED_GROWTH = 0.05


def main(flags: list[str]) -> int:
    """Run it; 0 if memory was steady and nothing was lost."""
    command = [sys.executable, "serve.py", *flags, "--port", "0", "--decoding", "precise", "--name", "bench"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    while not (found := re.search(r"listening on (\S+)", line := server.stderr.readline())):
        if not line:
            return 1
    client = openai.OpenAI(base_url=found.group(1), api_key="none", max_retries=0, timeout=600)
    process = psutil.Process(server.pid)

    def ask(number: int) -> int:
        text = f"Question {number}: " + "why? " * (number * 7 % 40)
        answer = client.chat.completions.create(
            model="bench", messages=[{"role": "user", "content": text}], max_tokens=NUM_TOKENS
        )
        return answer.usage.completion_tokens if answer.usage else 0

    def ask_all(numbers: range) -> list[int]:
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            return list(pool.map(ask, numbers))

    try:
        written = ask_all(range(NUM_WARM))
        before, began = process.memory_info().rss, time.monotonic()
        written += ask_all(range(NUM_WARM, NUM_REQUESTS))
        duration_s, after = time.monotonic() - began, process.memory_info().rss
    finally:
        server.terminate()
        server.communicate(timeout=60)
    growth = after / before - 1
    result = {
        "requests": len(written),
        "clients": NUM_CLIENTS,
        "lost": NUM_REQUESTS - len(written),
        "requests_per_second": round((NUM_REQUESTS - NUM_WARM) / duration_s, 2),
        "tokens_per_second": round(sum(written[NUM_WARM:]) / duration_s, 1),
        "rss_after_200_mb": round(before / 1e6, 1),
        "rss_after_1000_mb": round(after / 1e6, 1),
        "growth": round(growth, 4),
        "exit_code": server.returncode,
    }
    print(json.dumps(result))
    return 0 if growth <= ALLOWED_GROWTH and result["lost"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
