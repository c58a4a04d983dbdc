"""Draw rows from a MongoDB collection into Excel, CSV or JSONL: exact quotas per label, every document accounted for.

Reads the collection once. Writes the file of -o (with --splits one for each split) and <output>.manifest.json.
The password comes from MONGO_PASSWORD, from --mongo_uri_file or from a prompt, never from the command line.
    python extract_mongo.py -u ada --auth-database texts --list-labels
    python extract_mongo.py -u ada --auth-database texts -l "正常:15000,暴恐:6000" --random --seed 123 -o out.xlsx
"""

import sys

from sft.config.extract_mongo import ExtractSettings
from sft.config.layers import load_settings
from sft.config.secrets import refuse_password_words
from sft.console import repeat_warnings, run_command, say, table, to_json
from sft.errors import ConfigError
from sft.files import held, lock_of


def main(argv: list[str] | None = None) -> None:
    """Parse, connect, list the labels or draw the rows, print what became of every label."""
    words = sys.argv[1:] if argv is None else argv
    refuse_password_words(words)  # first: no message may repeat it
    settings = load_settings(ExtractSettings, words)

    from sft.data.extraction import extract, make_plan, manifest_path, summary_rows
    from sft.data.mongo import (  # pymongo: after --help
        Retry,
        choose_collection,
        choose_database,
        connect,
        count_labels,
        make_address,
    )

    address = make_address(
        uri=settings.mongo_uri,
        uri_file=settings.mongo_uri_file,
        host=settings.host,
        port=settings.port,
        user=settings.user,
        auth_database=settings.auth_database,
    )
    if settings.output is None and not settings.list_labels:
        raise ConfigError("output: none is named; give -o out.xlsx, or see which labels there are: --list-labels")
    plan = None if settings.output is None or settings.list_labels else make_plan(settings, settings.output)
    database = choose_database(address, settings.database)
    with connect(address, settings.timeout_s) as client:
        collection = choose_collection(client, address, database, settings.collection)
        settings.announce()
        if plan is None:
            counts = count_labels(collection, settings.label_field)
            rows = [[label, count] for label, count in counts.items()]
            print(to_json(counts) if settings.json_output else table(rows, header=["label", "documents"]))
            return
        with held(
            lock_of(plan.output), f"{plan.output}: another command is writing it", "wait for it, or name another"
        ):
            manifest = extract(collection, plan, Retry(settings.max_retries), shown=address.shown)
    say(table(summary_rows(manifest), header=["label", "asked", "read", "kept", "written", "left out"]))
    repeat_warnings()
    say(f"what became of every document: {manifest_path(plan.output)}")
    print(to_json(manifest) if settings.json_output else "\n".join(str(plan.file_of(split)) for split in plan.splits))


if __name__ == "__main__":
    run_command(main)
