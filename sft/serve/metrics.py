"""Counters of a server in the text form Prometheus reads."""

from collections import Counter
from collections.abc import Mapping

BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class ServerMetrics:
    """Counts of one server; used from the event loop's thread alone."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()  # (path, status)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._durations: Counter[float] = Counter()
        self._sum_s = 0.0

    def count_request(self, path: str, status: int, duration_s: float) -> None:
        """A request that was answered; a stream counts when it ends."""
        self.requests[path, status] += 1
        self._sum_s += duration_s
        self._durations[next((bound for bound in BUCKETS_S if duration_s <= bound), float("inf"))] += 1

    def count_tokens(self, num_prompt: int, num_written: int) -> None:
        """Tokens read and written for one request."""
        self.prompt_tokens += num_prompt
        self.completion_tokens += num_written

    def render(self, gauges: Mapping[str, int]) -> str:
        """The page of /metrics: gauges are values of this moment, {"running": 3, "waiting": 0}."""
        lines = ["# TYPE sft_requests_total counter"]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'sft_requests_total{{path="{path}",status="{status}"}} {count}')
        for name, value in (("prompt", self.prompt_tokens), ("completion", self.completion_tokens)):
            lines += [f"# TYPE sft_{name}_tokens_total counter", f"sft_{name}_tokens_total {value}"]
        for name, value in gauges.items():
            lines += [f"# TYPE sft_requests_{name} gauge", f"sft_requests_{name} {value}"]
        lines.append("# TYPE sft_request_duration_seconds histogram")
        total = 0
        for bound in (*BUCKETS_S, float("inf")):
            total += self._durations[bound]
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            lines.append(f'sft_request_duration_seconds_bucket{{le="{shown}"}} {total}')
        lines += [f"sft_request_duration_seconds_sum {self._sum_s:.6f}", f"sft_request_duration_seconds_count {total}"]
        return "\n".join(lines) + "\n"
