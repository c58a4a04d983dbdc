"""Uploads a folder to a repository on the hub: only the files needed to use the weights, private by default.

push = prepare_push(run, folder, "adapter", "ada/reviews")     # card written, files chosen
push.describe()                                                # what --dry_run prints
send(push, private=True)                                       # "https://huggingface.co/ada/reviews"

The token comes from HF_TOKEN or `hf auth login`, as huggingface_hub finds it; it is never an argument here.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from sft.console import say, table
from sft.errors import RunError
from sft.export.card import CARD_FILE, What, base_id, build_card
from sft.runs.run import Run

# Files that are uploaded. Checkpoints, optimizer state (*.pt, *.pth, *.bin), logs and run.json are not.
SENT = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "*.jinja", "merges.txt", "Modelfile", CARD_FILE)
SENT_JSON = (
    "adapter_config.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json", "added_tokens.json", "prompt_fingerprint.json",
)  # fmt: skip
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Push:
    """The files that would be sent (names below folder, with their bytes), and the target."""

    repo_id: str
    folder: Path
    files: dict[str, int]

    def describe(self) -> str:
        """One line per file, and the sum."""
        rows: list[list[object]] = [[name, f"{size:,}"] for name, size in self.files.items()]
        rows.append([f"{len(self.files)} files to {self.repo_id}", f"{sum(self.files.values()):,}"])
        return table(rows, header=["file", "bytes"])


def prepare_push(run: Run, folder: Path, what: What, repo_id: str, stage: Path) -> Push:
    """A copy (by link where the disk allows it) of what may be sent, with the card of this repository, in `stage`."""
    stage.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and _may_be_sent(path):
            _link(path, stage / path.name)
    if (stage / ADAPTER_CONFIG).is_file():
        _name_base(stage / ADAPTER_CONFIG, base_id(run) or Path(run.base["name"]).name)
    weights = tuple(path.name for path in sorted(stage.glob("*.gguf")))
    (stage / CARD_FILE).unlink(missing_ok=True)  # a link: the original stays as it is
    (stage / CARD_FILE).write_text(build_card(run, what, title=repo_id, files=weights), encoding="utf-8")
    return Push(repo_id, stage, {path.name: path.stat().st_size for path in sorted(stage.iterdir())})


def send(push: Push, *, private: bool) -> str:
    """Create the repository if it does not exist and upload in one commit; returns its address.

    Raises RunError without a token, for a repository that is public when it should be private, and for what the hub
    refuses.
    """
    from httpx import HTTPError
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not get_token():
        raise RunError("no token for the hub: run `hf auth login`, or set HF_TOKEN to one with write access")
    api = HfApi()
    try:
        url = api.create_repo(push.repo_id, private=private, exist_ok=True)
        if private and not api.model_info(push.repo_id).private:
            raise RunError(f"{push.repo_id} exists and is public; pass --no-private, or name another repository")
        api.upload_folder(repo_id=push.repo_id, folder_path=push.folder, commit_message="Upload by qwen-sft")
        there = {sibling.rfilename for sibling in api.model_info(push.repo_id).siblings or []}
    except OfflineModeIsEnabled:
        raise RunError("HF_HUB_OFFLINE is set, so nothing can be sent; unset it") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        hint = "does the token have write access?" if status in (401, 403) else "try again"
        raise RunError(f"{push.repo_id}: the hub refused ({status}); {hint}") from None
    except (OSError, HTTPError) as error:
        raise RunError(f"{push.repo_id}: no answer from the hub ({type(error).__name__}); check the network") from None
    if missing := sorted(set(push.files) - there):
        raise RunError(f"{push.repo_id}: the hub does not list {', '.join(missing)} after the upload; push again")
    say(f"sent {len(push.files)} files to {push.repo_id} ({'private' if private else 'public'})")
    return str(url)


def _may_be_sent(path: Path) -> bool:
    return path.name in SENT_JSON or any(path.match(pattern) for pattern in SENT)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _name_base(path: Path, name: str) -> None:
    """peft writes the folder the base was loaded from; others need its name, and the folder's path stays private."""
    config = json.loads(path.read_text(encoding="utf-8")) | {"base_model_name_or_path": name}
    path.unlink()  # a link
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
