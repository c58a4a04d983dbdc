"""Rows that tests build from."""


def instruct_rows(count: int, start: int = 0) -> list[dict[str, object]]:
    """Rows that ask different things: [{"instruction": "question 0", "input": "", "output": "answer 0"}, ...]."""
    numbers = range(start, start + count)
    return [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in numbers]
