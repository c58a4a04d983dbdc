"""Does the server stay up? 64 clients for ten minutes: streams, hang-ups, long contexts, and 600 that stop midway.

    python -m benchmarks.serve_soak --model embedded
    python -m benchmarks.serve_soak --run outputs/demo --seconds 60

Starts serve.py as a process on 127.0.0.1 and prints one JSON line. Exit code 1 if a request got a 5xx answer, /health
took longer than two seconds, anything still ran three seconds after the last client left, or memory grew by more than
10 % after the first fifth of the time.
"""

import argparse
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import psutil

NUM_CLIENTS, NUM_STALLED = 64, 600
ALLOWED_GROWTH, ALLOWED_HEALTH_S = 0.10, 2.0
LONG = "Tell me why, in the end, all of it came to this. " * 20


def main() -> int:
    """Run it; 0 if the server passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--long", type=int, default=4, help="copies of a text of about 240 tokens in a long prompt")
    parser.add_argument("--max_tokens", type=int, default=24)
    options, flags = parser.parse_known_args()
    command = [sys.executable, "serve.py", *flags, "--port", "0", "--decoding", "precise", "--name", "soak"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    while not (found := re.search(r"listening on (\S+)/v1", line := server.stderr.readline())):
        if not line:
            return 1
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(server.stderr or ()))
    reader.start()
    try:
        result = soak(found.group(1), psutil.Process(server.pid), options)
    finally:
        server.terminate()
        exit_code = server.wait(120)
        reader.join()
    result |= {"exit_code": exit_code, "log_lines": len(log)}
    print(json.dumps(result))
    statuses, held = result["statuses"], result["running_3_s_later"] == 0 and result["growth"] <= ALLOWED_GROWTH
    return int(not held or result["worst_health_s"] > ALLOWED_HEALTH_S or any(int(s) >= 500 for s in statuses))


def soak(url: str, process: psutil.Process, options: argparse.Namespace) -> dict:
    """Run all clients until the time is up: {"statuses": {"200": 812, "429": 3}, "hung_up": 90, ...}."""
    began, counts, hung_up = time.monotonic(), Counter[str](), Counter[str]()
    health_s, memory = [], []

    def is_over() -> bool:
        return time.monotonic() - began > options.seconds

    def talk(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=url, timeout=300) as client:
            while not is_over():
                text = LONG * options.long if rng.random() < 0.2 else f"Question {rng.random()}?"
                body = {
                    "model": "soak",
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": options.max_tokens,
                }
                way = rng.choice(("whole", "stream", "leave a stream", "leave at once"))
                try:
                    if way == "leave at once":
                        client.post("/v1/chat/completions", json=body, timeout=rng.random() * 2)
                        continue
                    body["stream"] = way != "whole"
                    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        counts[str(answer.status_code)] += 1
                        for num_lines, line in enumerate(answer.iter_lines()):
                            counts["500"] += '"server_error"' in line
                            if way == "leave a stream" and num_lines > 4:
                                hung_up[way] += 1
                                break
                        if answer.status_code == 429:
                            time.sleep(0.5)
                except httpx.TimeoutException:
                    hung_up[way] += 1

    def stall() -> None:
        """Open more connections than the server accepts, each stopping in the middle of a body."""
        host, port = url.removeprefix("http://").split(":")
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{"
        while not is_over():
            opened = [socket.create_connection((host, int(port)), timeout=10) for _ in range(NUM_STALLED)]
            for connection in opened:
                with suppress(OSError):  # the server has closed the oldest of them
                    connection.sendall(head)
            time.sleep(5)
            for connection in opened:
                connection.close()

    def watch() -> None:
        while not is_over():
            asked = time.monotonic()
            counts[str(httpx.get(f"{url}/health", timeout=60).status_code)] += 1
            health_s.append(time.monotonic() - asked)
            memory.append((asked - began, process.memory_info().rss))
            time.sleep(0.5)

    with ThreadPoolExecutor(NUM_CLIENTS + 2) as pool:
        work = [pool.submit(talk, number) for number in range(NUM_CLIENTS)] + [pool.submit(stall), pool.submit(watch)]
        for done in work:
            done.result()
    time.sleep(3)
    health = httpx.get(f"{url}/health", timeout=60).json()
    first = max(rss for at_s, rss in memory if at_s <= options.seconds / 5)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "statuses": {name: number for name, number in counts.items() if name.isdigit() and number},
        "hung_up": dict(hung_up),
        "worst_health_s": round(max(health_s), 3),
        "running_3_s_later": health["running"] + health["waiting"],
        "rss_after_a_fifth_mb": round(first / 1e6),
        "rss_at_the_end_mb": round(process.memory_info().rss / 1e6),
        "growth": round(process.memory_info().rss / first - 1, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
