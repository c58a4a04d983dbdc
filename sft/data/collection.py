"""Reading every source to its end: each becomes a spool, or is found spooled by a build that was interrupted."""

from pathlib import Path

from sft.console import Progress, progress, say
from sft.data.decontamination import EvaluationTexts
from sft.data.digest import SHOWN_BAD_ROWS, Digest, Rules
from sft.data.ledger import Tally
from sft.data.manifest import BuildOptions
from sft.data.places import sha256_of
from sft.data.preset import Preset
from sft.data.recognised import Recognised, check_columns, check_numbers
from sft.data.rows import BadRow
from sft.data.sources import Source
from sft.data.spool import Spool, SpoolWriter, load_spool, make_key
from sft.data.workers import Workers
from sft.errors import DataError


class Collection:
    """The sources of one build, read one after the other."""

    def __init__(
        self, folder: Path, preset: Preset, options: BuildOptions, evaluation: EvaluationTexts | None, num_proc: int
    ) -> None:
        self._folder = folder
        self._preset = preset
        self._options = options
        self._num_proc = num_proc
        self._num_quarantined = 0
        self._bad_rows: list[BadRow] = []  # the first few of all sources, for a message
        self._rules = {
            name: make_rules(name, source, preset, options, evaluation) for name, source in preset.sources.items()
        }

    def read_all(self) -> list[Spool]:
        """Every source's spool, in the order of the preset. Raises DataError as build_dataset says."""
        with Workers(self._rules, self._num_proc) as workers:
            return [self._collect(name, source, workers) for name, source in self._preset.sources.items()]

    def _collect(self, name: str, source: Source, workers: Workers) -> Spool:
        folder = self._folder / make_key(_decisive_facts(source, self._rules[name]))
        spool = load_spool(folder)
        if spool is not None and spool.is_of(source.origin()):
            say(f"{name}: {spool.tally.read:,} rows were read before the interruption, and are used")
            self._check_bad_rows(source, spool.tally.quarantined.total(), spool.bad_rows)
        else:
            spool = self._read(name, source, workers, folder)
        if not source.is_packaged:
            self._num_quarantined += spool.tally.quarantined.total()
            self._bad_rows = (self._bad_rows + spool.bad_rows)[:SHOWN_BAD_ROWS]
        return spool

    def _read(self, name: str, source: Source, workers: Workers, folder: Path) -> Spool:
        recognised: dict[str, Recognised] = {}
        bar: Progress[None]
        with SpoolWriter(folder) as spool, progress(description=f"read {name}", unit="row") as bar:
            for digest in workers.digest(name, iter(source.chunks())):
                spool.append(digest)
                _merge_recognised(recognised, digest)
                bar.note(self._describe_share(name, spool.tally))
                bar.update(digest.tally.read)
                self._check_bad_rows(source, spool.tally.quarantined.total(), spool.bad_rows)
                if digest.failed is not None:
                    raise digest.failed.to_error()
            finished = spool.finish(source.origin())
        for shown_as, found in recognised.items():
            say(found.describe(shown_as))
            check_numbers(shown_as, found)
            check_columns(shown_as, getattr(source, "columns", {}), found)
        return finished

    def _describe_share(self, name: str, tally: Tally) -> str:
        """How much of the quota the rows read so far could fill: `124 usable, 18% of 695 asked`."""
        asked = sum(plan.rows.get(name, 0) for plan in self._preset.plans())
        usable = tally.read - tally.dropped.total() - tally.quarantined.total()
        return f"{usable:,} usable" + (f", {min(1, usable / asked):.0%} of {asked:,} asked" if asked else "")

    def _check_bad_rows(self, source: Source, more: int, bad_rows: list[BadRow]) -> None:
        limit = self._options.max_bad_rows
        if limit is None or source.is_packaged or self._num_quarantined + more <= limit:
            return
        shown = (self._bad_rows + bad_rows)[:SHOWN_BAD_ROWS]
        first = "; ".join(f"{bad.file}:{bad.line}: {bad.message}" for bad in shown)
        raise DataError(f"more than {limit} bad rows (--max_bad_rows); the first: {first}")


def make_rules(
    name: str, source: Source, preset: Preset, options: BuildOptions, evaluation: EvaluationTexts | None
) -> Rules:
    """What a build does with the rows of one source."""
    return Rules(
        source=name,
        filters=source.filters,
        strata=source.strata,
        stratum_numbers={stratum: number for number, (stratum, _) in enumerate(source.cell_shares())},
        on_bad_row=source.on_bad_row or options.on_bad_row,
        seed=options.seed,
        evaluation=evaluation,
        signed=preset.near_duplicates is not None,
    )


def _decisive_facts(source: Source, rules: Rules) -> dict[str, object]:
    """All that decides what a source's spool holds, beside the source's own data."""
    own = source.model_dump(mode="json", exclude={"share", "max_rows_per_text"})
    return {
        "source": own,
        "name": rules.source,
        "strata": list(rules.stratum_numbers),
        "on_bad_row": rules.on_bad_row,
        "seed": rules.seed,
        "keyword_files": {name: sha256_of(path) for name, path in source.keyword_files().items()},
        "evaluation": rules.evaluation.files if rules.evaluation else {},
        "signed": rules.signed,
    }


def _merge_recognised(recognised: dict[str, Recognised], digest: Digest) -> None:
    for shown_as, found in digest.recognised.items():
        recognised.setdefault(shown_as, Recognised()).add(found)
