"""A classification head: transformers' own ...ForSequenceClassification, reading what Head says of every row.

The class, its weights, its config and its files are the stock ones. Its forward is ours, because the stock one
takes the last token of each line and knows neither rows concatenated nor means; dropout before the head it has none.
With the last token both give the same logits, so the weights work anywhere.

    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label=head.id2label, label2id=head.label2id)
    install_head(model, head, dropout=0.1, pad_id=0)
    model(**flatten_rows(rows)).logits        # (R, C), always fp32
"""

from pathlib import Path
from types import MethodType

import torch
from torch.nn.functional import dropout
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from prompts import Head
from prompts.head import Pooling
from sft.errors import RunError
from sft.models.files import read_json_object

SCORE = "score"  # what transformers calls the head's linear layer
CONFIG_FILE = "config.json"


def install_head(model: PreTrainedModel, head: Head, *, dropout: float, pad_id: int) -> None:
    """Let a ...ForSequenceClassification read what `head` says. Its config keeps all of it and is saved with it."""
    config = model.config
    config.head_pooling, config.head_dropout, config.pad_token_id = head.pooling, dropout, pad_id
    model.score.float()  # a thousand weights or so decide everything: no bit of them is rounded away
    model.forward = MethodType(classify, model)


def read_head(folder: Path) -> Head | None:
    """The head described by a folder's config.json; None if the folder has a language model.

    Raises RunError if the config says nothing sensible.
    """
    path = folder / CONFIG_FILE
    config = read_json_object(path) if path.is_file() else {}
    if "head_pooling" not in config:
        return None
    names = config.get("id2label", {})
    try:
        return Head(tuple(names[str(number)] for number in range(len(names))), config["head_pooling"])
    except (TypeError, KeyError):
        raise RunError(f"{path}: id2label is {names!r}, expected names for 0, 1, ...; restore the file") from None


def classify(
    self: PreTrainedModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **more: object,
) -> SequenceClassifierOutputWithPast:
    """Logits (R, C) of the rows of a batch: lines (B, T), padded on any side, or concatenated (1, T) with bounds.

    Without a mask the padding token marks padding: no text is ever encoded as it.
    """
    given = {name: value for name, value in more.items() if value is not None}
    if cu_seq_lens_q is not None:
        given["cu_seq_lens_q"] = cu_seq_lens_q
    output = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **given)
    hidden = output.last_hidden_state  # (B, T, D)
    if cu_seq_lens_q is not None:
        pooled = pool_flat(hidden[0], cu_seq_lens_q, self.config.head_pooling)
    else:
        mask = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask
        pooled = pool_padded(hidden, mask, self.config.head_pooling)
    return SequenceClassifierOutputWithPast(logits=score_pooled(self, pooled))


def score_pooled(model: PreTrainedModel, pooled: torch.Tensor) -> torch.Tensor:
    """The head's output for its input vectors: (R, D) -> logits (R, C), fp32, also within autocast."""
    pooled = dropout(pooled, model.config.head_dropout, model.training)
    with torch.autocast(pooled.device.type, enabled=False):
        logits: torch.Tensor = model.score(pooled.to(model.score.weight.dtype)).float()
    return logits


def pool_flat(hidden: torch.Tensor, bounds: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Rows concatenated, (T, D) with bounds (R + 1,) -> (R, D), fp32: each row's last vector, or the mean of all.

    What may come after the last row is filling.
    """
    if pooling == "last":
        return hidden[bounds[1:] - 1].float()
    lengths = bounds.diff()
    row_of_token = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
    sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, row_of_token, hidden[: len(row_of_token)].float())
    return sums / lengths[:, None]


def pool_padded(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Rows as lines, (B, T, D) with a mask (B, T) that is 0 on padding -> (B, D), fp32, as pool_flat."""
    mask = mask.long()
    if pooling == "last":
        last = (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    return (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
