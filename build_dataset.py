"""Build a dataset folder from a preset: exact quotas, no text on two sides, every row accounted for.

Reads recipes/data/<preset>.yaml and its sources. Writes data/<name>/{train,validation,test}.jsonl, manifest.json and
ledger.jsonl; an old dataset of that name is replaced only when the new one is whole.
    python build_dataset.py --preset demo
    python build_dataset.py --preset demo --dry_run 1000
"""

from sft.config.build import BuildSettings
from sft.config.layers import load_settings
from sft.console import repeat_warnings, run_command, say, to_json


def main(argv: list[str] | None = None) -> None:
    """Build the dataset, say what became of every source, print its folder."""
    settings = load_settings(BuildSettings, argv)
    from sft.data.building.build import BuildOptions, build_dataset  # after --help: numpy takes a moment
    from sft.data.building.manifest import summary_table
    from sft.data.building.preset import load_preset
    from sft.data.building.preview import preview_sources, preview_table

    options = BuildOptions(
        settings.seed,
        settings.on_bad_row,
        settings.max_bad_rows,
        settings.on_shortage,
        tuple(settings.decontaminate),
    )
    preset = load_preset(settings.preset, registry=settings.registry, total=settings.total)
    settings.announce()
    if settings.dry_run:
        previews = preview_sources(preset, options, settings.dry_run)
        found = {name: preview.to_json() for name, preview in previews.items()}
        say("a sample: of duplicates it shows only those whose twin was sampled too")
        print(to_json(found) if settings.json_output else preview_table(previews))
        repeat_warnings()
        return
    target = settings.data_dir / settings.name
    manifest = build_dataset(preset, target, options, num_proc=settings.num_proc, resume=settings.resume)
    say(summary_table(manifest))
    repeat_warnings()
    say(f"ledger of every row not kept: {target / 'ledger.jsonl'}")
    print(to_json(manifest) if settings.json_output else target)


if __name__ == "__main__":
    run_command(main)
