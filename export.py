"""Turn a run into weights that others can load, each compared with the run before it counts.

Reads the run folder and the rows it held out. Writes outputs/<run>/export/: merged/, gguf/, export.json; or sends a
repository to the hub. The result goes to stdout; where an export says anything else than the run, nothing is left.

    python export.py --merge
    python export.py --gguf q8_0,q4_k_m --modelfile
    python export.py --push ada/reviews --dry_run
"""

import shlex
import tempfile
from pathlib import Path

from sft.config.export import ExportSettings
from sft.config.layers import load_settings
from sft.console import run_command, say, to_json
from sft.console.narration import show_path
from sft.runs.run import Run


def main(argv: list[str] | None = None) -> None:
    """Parse, export, push, print where things are."""
    settings = load_settings(ExportSettings, argv)
    from sft.models.adopted import open_tuned

    run = open_tuned(settings)
    settings.announce()
    output_dir = Path(settings.output_dir) if settings.output_dir else run.path / "export"

    from sft.export.flow import check_portable, check_run, export_run  # heavy: after --help, and after a run was found

    result: dict[str, object] = {"run": run.path.name}
    if settings.merge or settings.gguf:
        result |= export_run(run, settings, output_dir)
    else:
        check_portable(run, settings)
        check_run(run, allow_mismatch=settings.allow_mismatch, trust_remote_code=settings.trust_remote_code)
    if settings.push:
        from sft.export.card import What
        from sft.export.hub import prepare_push, send

        exported: What | None = "gguf" if settings.gguf else "merged" if settings.merge else None
        folder = output_dir / exported if exported else run.weights_dir
        what = exported or ("adapter" if run.train_settings().has_adapter else "merged")
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder.parent) as stage:
            push = prepare_push(run, folder, what, settings.push, Path(stage) / "repository")
            say(push.describe())
            result["push"] = {"repo_id": push.repo_id, "private": settings.private, "files": push.files}
            if not settings.dry_run:
                result["push"]["url"] = send(push, private=settings.private)
    print(to_json(result) if settings.json_output else describe_result(result, settings, output_dir))
    if follow_up := name_next(run, settings, output_dir):
        say(f"next: {follow_up}")


def describe_result(result: dict[str, object], settings: ExportSettings, output_dir: Path) -> str:
    """What was done and whether it may be used, in a sentence; export.json and --json have the figures."""
    done = [f"merged weights are in {show_path(output_dir / 'merged')}"] if "merged" in result else []
    done += (
        [f"GGUF files ({', '.join(settings.gguf)}) are in {show_path(output_dir / 'gguf')}"] if settings.gguf else []
    )
    if settings.push:
        done.append(f"{settings.push} {'would get' if settings.dry_run else 'has'} the files listed above")
    verdict = ""
    if settings.merge or settings.gguf:
        verdict = "; compared with the run, within the limits: safe to use in its place"
    merged = result.get("merged")
    if isinstance(merged, dict) and (others := merged["compared_prompts"] - merged["same_prompts"]):
        verdict += (
            f", but not for {others} of {merged['compared_prompts']} prompts, which the exported chat template writes "
            "otherwise (it may know no tools): use serve.py for those"
        )
    return f"{'; '.join(done)}{verdict}."


def name_next(run: Run, settings: ExportSettings, output_dir: Path) -> str:
    """The command that tries what was made; empty if it was sent away, or where it classifies and cannot chat."""
    if settings.push or run.is_classifier:
        return ""
    folder = output_dir / "gguf"
    if settings.modelfile:
        return f"ollama create {run.path.name.lower()} -f {shlex.quote(show_path(folder / 'Modelfile'))}"
    if settings.gguf:
        return f"llama-server -m {shlex.quote(show_path(folder / f'{run.path.name}-{settings.gguf[0]}.gguf'))}"
    return f"python chat.py --model {shlex.quote(show_path(output_dir / 'merged'))}"


if __name__ == "__main__":
    run_command(main)
