"""Rows that tests build from."""


def instruct_rows(count: int, start: int = 0) -> list[dict[str, object]]:
    """Rows that ask different things: [{"instruction": "question 0", "input": "", "output": "answer 0"}, ...]."""
    numbers = range(start, start + count)
    return [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in numbers]


LABELS = ("正常", "暴恐", "色情低俗")


def make_documents(count: int) -> list[dict[str, object]]:
    """Documents of three labels in turn: [{"_id": 0, "text_cn": "文本 0", "n_labels": "正常"}, ...]."""
    return [{"_id": n, "text_cn": f"文本 {n}", "n_labels": LABELS[n % 3]} for n in range(count)]
