"""Cut a data set of many gigabytes down to the rows a mixture wants, on several machines, with datatrove.

Reads JSONL or Parquet files of a folder (local, s3://, hf://), keeps the rows whose text holds a keyword, removes near
duplicates among them (MinHash), and writes shards of JSONL with the columns as they were; build_dataset.py goes on from
there. Needs datatrove, which the project does not install: pip install "datatrove[io,processing]==0.10.1"

    python examples/stackexchange_datatrove.py --make_sample 400 --input sample --output shards --workers 2
    python examples/stackexchange_datatrove.py --format parquet --output s3://bucket/shards --tasks 200 \\
        --input hf://datasets/HuggingFaceH4/stack-exchange-preferences/data --slurm_partition cpu
"""

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # sft/: the keywords mean the same here as in a build

try:
    from datatrove.data import Document
    from datatrove.executor import LocalPipelineExecutor, SlurmPipelineExecutor
    from datatrove.executor.base import PipelineExecutor
    from datatrove.pipeline.base import PipelineStep
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters.base_filter import BaseFilter
    from datatrove.pipeline.readers import JsonlReader, ParquetReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.word_tokenizers import WordTokenizer
except ImportError as missing:
    print(f'error: {missing}; run: pip install "datatrove[io,processing]==0.10.1"', file=sys.stderr)
    sys.exit(2)

from sft.data.sources.filters import KeywordSet
from sft.text import split_words

AI = "neural network,deep learning,transformer,backpropagation,reinforcement learning,llm,pytorch,tensorflow"
MINHASH = MinhashConfig(num_buckets=14, hashes_per_bucket=8)  # datatrove's own: Jaccard .8 is found with .92


class Words(WordTokenizer):
    """Latin words and single Chinese characters; datatrove's own tokenizers need spaCy or NLTK's downloads."""

    def word_tokenize(self, text: str) -> list[str]:
        return split_words(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


class KeywordFilter(BaseFilter):
    """Keeps rows that hold one of the terms: Latin terms as words, Chinese ones anywhere."""

    name = "keywords"

    def __init__(self, terms: list[str]) -> None:
        super().__init__()
        self.terms = terms
        self._keywords: KeywordSet | None = None

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether the row stays. The automaton is made in the task that uses it: it does not travel."""
        self._keywords = self._keywords or KeywordSet(self.terms)
        return True if self._keywords.find(doc.text) else (False, "no_keyword")


def read_document(self: PipelineStep, row: dict[str, object], path: str, place: int | str) -> dict[str, object]:
    """A row as datatrove's document: the question is its text, every column its metadata."""
    return {"text": str(row.get("question") or ""), "id": f"{path}/{place}", "metadata": {"row": row}}


def write_row(self: PipelineStep, document: Document) -> object:
    """The row as it was read."""
    return document.metadata["row"]


def make_steps(arguments: argparse.Namespace) -> list[tuple[str, list[PipelineStep], int]]:
    """The five jobs in their order: name, pipeline, number of tasks."""
    output, scratch = arguments.output.rstrip("/"), f"{arguments.output.rstrip('/')}/.scratch"
    reader = JsonlReader if arguments.format == "jsonl" else ParquetReader
    source = reader(arguments.input, glob_pattern=f"**/*.{arguments.format}", adapter=read_document, recursive=True)
    kept = JsonlReader(f"{scratch}/kept", adapter=read_document)
    plain = JsonlWriter(f"{scratch}/kept", compression=None, adapter=write_row)
    shards = JsonlWriter(output, "${rank}.jsonl", compression=None, adapter=write_row)
    signature = MinhashDedupSignature(f"{scratch}/signatures", config=MINHASH, language=Words())
    return [
        ("keywords", [source, KeywordFilter(arguments.keywords.split(",")), plain], arguments.tasks),
        ("signatures", [kept, signature], arguments.tasks),
        (
            "buckets",
            [MinhashDedupBuckets(f"{scratch}/signatures", f"{scratch}/buckets", config=MINHASH)],
            MINHASH.num_buckets,
        ),
        ("clusters", [MinhashDedupCluster(f"{scratch}/buckets", f"{scratch}/removed", config=MINHASH)], 1),
        ("shards", [kept, MinhashDedupFilter(f"{scratch}/removed"), shards], arguments.tasks),
    ]


def make_executor(
    arguments: argparse.Namespace, name: str, pipeline: list[PipelineStep], tasks: int, before: PipelineExecutor | None
) -> PipelineExecutor:
    """One job, on this machine or on a Slurm cluster. A task that has run is not run again: its log says so."""
    logs = f"{arguments.output.rstrip('/')}/.logs/{name}"
    if not arguments.slurm_partition:
        return LocalPipelineExecutor(pipeline, tasks, min(arguments.workers, tasks), logging_dir=logs, depends=before)
    return SlurmPipelineExecutor(
        pipeline,
        tasks,
        time=arguments.slurm_time,
        partition=arguments.slurm_partition,
        job_name=name,
        logging_dir=logs,
        depends=before,
    )


def make_sample(folder: Path, count: int) -> None:
    """Rows like the data set's in four files: half hold a keyword, a fifth of these stand twice, a word apart."""
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(2000)]
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, object]] = []
    for number in range(count):
        topic = "a neural network" if number % 2 else "an organ"  # "gan" stands in it, but not as a word
        text = f"How does {topic} learn? {' '.join(rng.choices(words, k=80))}"
        for copy in range(2 if number % 10 == 1 else 1):
            question = f"<p>{text}{' please' * copy}</p>"
            answers = [{"text": f"<p>answer {number}</p>", "pm_score": 3, "selected": True}]
            rows.append({"qid": len(rows), "question": question, "answers": answers})
    for part in range(4):
        with (folder / f"part-{part}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows[part::4])


def main() -> None:
    """Parse, make the sample if asked for, run the five jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder of the files, also s3:// or hf://")
    parser.add_argument("--output", required=True, help="folder of the shards, also s3://")
    parser.add_argument("--format", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--keywords", default=AI, help="terms, separated by commas")
    parser.add_argument("--tasks", type=int, default=4, help="parts the files are divided into; at most one a file")
    parser.add_argument("--workers", type=int, default=1, help="tasks at the same time on this machine")
    parser.add_argument("--slurm_partition", help="run on this partition of a Slurm cluster instead")
    parser.add_argument("--slurm_time", default="04:00:00", help="time limit of a job there")
    parser.add_argument("--make_sample", type=int, default=0, help="first write so many rows into --input")
    arguments = parser.parse_args()
    if arguments.make_sample:
        make_sample(Path(arguments.input), arguments.make_sample)
    executor = None
    for name, pipeline, tasks in make_steps(arguments):
        executor = make_executor(arguments, name, pipeline, tasks, executor)
    executor.run()  # runs what it depends on first
    print(f"shards: {arguments.output}")


if __name__ == "__main__":
    main()
