"""Every attack of the lists against the real command lines; in `make test` every 20th of them."""

from pathlib import Path

import pytest

from tests.faults import attacks_disks, attacks_inputs, attacks_models, attacks_mongo, attacks_settings
from tests.faults.attacks import Attack, find_faults, list_files
from tests.faults.commands_apart import Limits, Runner

LISTS = (attacks_settings, attacks_inputs, attacks_models, attacks_disks, attacks_mongo)
ATTACKS = [attack for each in LISTS for attack in each.ATTACKS]
IN_EVERY_TEST_RUN = 20


def _mark(index: int, attack: Attack) -> object:
    in_slice = index % IN_EVERY_TEST_RUN == 0 and attack.limits == Limits()
    return pytest.param(attack, id=str(attack), marks=[] if in_slice else pytest.mark.slow)


@pytest.mark.parametrize("attack", [_mark(index, attack) for index, attack in enumerate(ATTACKS)])
def test_it_ends_in_one_line_or_is_used_unchanged(
    attack: Attack, sources: dict[str, Path], runner: Runner, tmp_path: Path, record_property
):
    record_property("kind", attack.kind)
    folder = tmp_path / "w"
    folder.mkdir()
    attack.prepare(folder)
    before = list_files(folder)
    command = attack.command
    for name, path in sources.items():
        command = command.replace(f"{{{name}}}", str(path))
    try:
        ended = runner.run(command, folder, attack.limits)
        faults = find_faults(attack, ended, before, list_files(folder))
    finally:
        for path in folder.rglob("*"):  # so that pytest can clear it away
            if not path.is_symlink():
                path.chmod(0o755)
    assert faults == [], ended.err[-3000:]


def test_no_two_attacks_are_the_same():
    assert len({str(attack) for attack in ATTACKS}) == len(ATTACKS)
