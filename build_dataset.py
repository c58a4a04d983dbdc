"""Build a dataset folder from a preset: exact quotas, no text on two sides, every row accounted for.

Reads recipes/data/<preset>.yaml and its sources. Writes data/<name>/{train,validation,test}.jsonl, manifest.json and
ledger.jsonl; an old dataset of that name is replaced only when the new one is whole.
    python build_dataset.py --preset demo
"""

from sft.config.build import BuildSettings
from sft.config.layers import load_settings
from sft.console import run_command, say, to_json


def main(argv: list[str] | None = None) -> None:
    """Build the dataset, say what became of every source, print its folder."""
    settings = load_settings(BuildSettings, argv)
    from sft.data.build import BuildOptions, build_dataset  # after --help: numpy takes a moment
    from sft.data.manifest import summarise
    from sft.data.preset import load_preset

    for line in settings.describe():
        say(line)
    options = BuildOptions(
        settings.seed,
        settings.on_bad_row,
        settings.max_bad_rows,
        settings.on_shortage,
        tuple(settings.decontaminate),
    )
    target = settings.data_dir / settings.name
    preset = load_preset(settings.preset)
    manifest = build_dataset(preset, target, options, num_proc=settings.num_proc, resume=settings.resume)
    for line in summarise(manifest):
        say(line)
    say(f"ledger of every row not kept: {target / 'ledger.jsonl'}")
    print(to_json(manifest) if settings.json_output else target)


if __name__ == "__main__":
    run_command(main)
