"""An evaluation for people: a table for the terminal, a page, and a summary for pull requests.

figures    the tables' rows, the same for all three
terminal   render_table
page       report.html: one file that needs nothing from outside, in English and Chinese
plots      its pictures, as SVG
examples   which rows are shown, and where an answer differs from its reference
words      its labels in both languages
markdown   report.md
"""

from pathlib import Path

from sft.evaluation.flow import REPORT_FILE, SUMMARY_FILE, Evaluation
from sft.report.markdown import render_markdown, render_table
from sft.report.page import render_report
from sft.report.words import Language
from sft.runs.run import write_atomically

__all__ = ["render_markdown", "render_report", "render_table", "write_reports"]


def write_reports(evaluation: Evaluation, folder: Path, *, language: Language = "en") -> None:
    """Write report.html, which opens in that language, and report.md, which is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / REPORT_FILE, render_report(evaluation, language))
    write_atomically(folder / SUMMARY_FILE, render_markdown(evaluation, language))
