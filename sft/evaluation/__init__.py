"""Did tuning help? A run and its base model answer the same rows, and every figure is compared.

rows       which rows, as token ids            (run folder, dataset)
leaks      which of them are in the training data
baseline   the model that the run is compared with
measuring  the models, one after the other; answers: loss, label scores, generated text; journal: kept as they come
figures    answers -> groups of metrics.json; slices: by source, task, length, language
compare    base against tuned: intervals, rows fixed and broken; verdict: what it comes to in words
flow       all of it in order, and what is written into outputs/<run>/evaluation/
"""

from sft.evaluation.flow import Evaluation, Metrics, evaluate_run, write_evaluation

__all__ = ["Evaluation", "Metrics", "evaluate_run", "write_evaluation"]
