"""What is done to the commands, one attack per entry; a kind of attack per file of this folder named attacks_*.py.

Attack("inputs", "a Parquet date beyond the calendar", write_dates, "inspect_data.py --data dates.parquet")

The rule for all: the command ends within its limit with exit code 2 and one line on stderr that says what, where and
what to do next; no traceback; nothing half-written. What may also be read as it stands ends with exit code 0.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.commands_apart import HUNG, Ended, Limits

Prepare = Callable[[Path], object]
ERROR = "error: "
PWNED, CANARY = "PWNED", "CANARY"  # what code of strangers leaves behind, and what no command may print


@dataclass(frozen=True)
class Attack:
    """One attack: what is prepared in an empty folder, the command, and what its one line has to say."""

    kind: str  # the row of docs/reliability.md
    sentence: str
    prepare: Prepare
    command: str
    says: str = ""  # a pattern that the line on stderr has
    may_work: bool = False  # exit code 0 is as good: what was handed in can be used
    leaves: tuple[str, ...] = ()  # patterns of files that may be there afterwards
    limits: Limits = field(default_factory=Limits)

    def __str__(self) -> str:
        return f"{self.kind}: {self.sentence}"


def list_files(folder: Path) -> dict[str, int]:
    """Every file below a folder and its length."""
    return {
        str(path.relative_to(folder)): path.lstat().st_size for path in sorted(folder.rglob("*")) if not path.is_dir()
    }


def find_faults(attack: Attack, ended: Ended, before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What broke the rule: ["traceback: KeyError: 'x'"]; [] where the attack held."""
    if ended.code == HUNG:
        return [f"hang: still running after {ended.seconds:.0f} s"]
    lines = ended.err.splitlines()
    last = lines[-1] if lines else ""
    if "Traceback (most recent call last)" in ended.err:
        return [f"traceback: {last[:200]}"]
    new = {name for name in after if after[name] != before.get(name)} | (before.keys() - after.keys())
    strange = [name for name in sorted(new) if not any(re.fullmatch(pattern, name) for pattern in attack.leaves)]
    faults = []
    if PWNED in after:
        faults.append("code ran: it left its mark")
    if CANARY in ended.out + ended.err:
        faults.append("secret: it is in what the command printed")
    if ended.code == 0 and attack.may_work:
        return faults
    if ended.code != 2:
        faults.append(
            f"{'silent' if ended.code == 0 else 'killed' if ended.code < 0 else 'unclear'}: exit code {ended.code}"
        )
    errors = [line for line in lines if line.startswith(ERROR)]
    if len(errors) != 1 or last != errors[0]:
        faults.append(f"unclear: {len(errors)} error lines, the last line is {last[:200]!r}")
    elif not re.search(attack.says, last):
        faults.append(f"unclear: {last[:300]!r} does not say {attack.says!r}")
    if strange:
        faults.append(f"half-written: {', '.join(strange)[:200]}")
    return faults
