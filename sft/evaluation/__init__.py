"""Did tuning help? A run and the model it was tuned from answer the same rows, and every figure stands beside its like.

rows      which rows, as token ids            (run folder, dataset)
answers   loss, label scores, generated text  (the only part that needs the model)
figures   answers -> groups of metrics.json
compare   base against tuned: intervals, rows fixed and broken, the verdict
flow      all of it in order, and what is written into outputs/<run>/evaluation/
"""

from sft.evaluation.flow import Evaluation, evaluate_run, write_evaluation

__all__ = ["Evaluation", "evaluate_run", "write_evaluation"]
