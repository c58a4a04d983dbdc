"""Make the pictures of the documents from a real run: docs/pictures/report.png and chat.svg.

Photographs the first screen of the run's report with `chromium`, and records a chat.
    python benchmarks/pictures.py
    python benchmarks/pictures.py outputs/demo "What is a bag of words?"
"""

import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1280, 960  # pixels of the report that are shown
ASKED = "Which section of the news does this headline belong to: business, entertainment, politics, sports or tech? "
QUESTIONS = [f"{ASKED}Phone makers agree on one charger", "/compare", f"{ASKED}Striker signs for two more years"]


def take_report(run: Path) -> Path:
    """Save the first screen of report.html as PNG, with fewer colours if Pillow is installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("error: no Chromium; install it, e.g. apt install chromium")
    target = PICTURES / "report.png"
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={target}"]
        command += ["--blink-settings=preferredColorScheme=1", (run / "evaluation/report.html").resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    from PIL import Image  # comes with matplotlib

    Image.open(target).convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(target, optimize=True)
    return target


def record_chat(run: Path, questions: list[str]) -> Path:
    """Send a question to chat.py through a pipe and draw the conversation as a terminal shows it."""
    command = [sys.executable, "chat.py", "--run", str(run), "--max_new_tokens", "48", "--decoding", "precise"]
    process = subprocess.run(
        command, cwd=ROOT, input="".join(f"{question}\n" for question in [*questions, "exit"]),
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    console = Console(record=True, width=96, file=io.StringIO())
    console.print(Text("$ python chat.py", style="bold"))
    answers = process.stdout.split("\n")
    for question in questions:
        console.print(Text("you> ", style="bold cyan") + Text(question))
        taken = 2 if question.startswith("/compare") else 1
        for answer in answers[:taken]:
            console.print(Text(answer, style="green"))
        del answers[:taken]
        console.print()
    target = PICTURES / "chat.svg"
    drawn = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="qwen-sft"), flags=re.DOTALL)  # from outside
    target.write_text(drawn, encoding="utf-8")
    return target


def main(run: Path, questions: list[str]) -> None:
    """Make both pictures; print their sizes as one JSON line."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    made = [take_report(run), record_chat(run, questions)]
    print(json.dumps({path.name: path.stat().st_size for path in made}))


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else "outputs/latest"), sys.argv[2:] or QUESTIONS)
