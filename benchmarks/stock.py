"""The baseline of the speed benchmarks: TRL's trainer over the libraries' own models, as their documentation shows."""

from pathlib import Path


def build_stock(settings, backend, rows, args, *, keeps_adapter=False):
    """TRL's trainer on the libraries' own model, as their documentation has it; or on Unsloth's.

    keeps_adapter: leave an adapter beside 4-bit weights as PEFT made it; TRL turns it into bf16.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from sft.backend import UNSLOTH, load_with_unsloth
    from sft.models.loading import load_tokenizer
    from sft.models.methods import adapted_layers, names_for_unsloth
    from sft.models.precision import decide_precision
    from sft.models.source import find_source
    from sft.models.targets import choose_targets

    folder, precision = find_source(settings.model).folder, decide_precision(settings.dtype)
    if backend == UNSLOTH:
        model = load_with_unsloth(
            folder, precision.dtype, settings, None, lambda base: names_for_unsloth(base, settings)
        )
    else:
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if settings.method == "full" else precision.dtype,  # autocast computes in 16 bits
            trust_remote_code=False,
            quantization_config=four_bit if settings.method == "qlora" else None,
            device_map={"": precision.device},
        )
        if settings.method == "full":
            return build_on(model, load_tokenizer(folder), rows, args)
        lora = LoraConfig(
            r=settings.lora_r,
            lora_alpha=settings.lora_alpha,
            target_modules=[target.name for target in choose_targets(model, settings.target_modules)],
            layers_to_transform=adapted_layers(model.config.num_hidden_layers, settings.lora_layers),
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(settings.seed)  # as ours: the same first weights
        model = get_peft_model(model, lora)
    return build_on(model, load_tokenizer(folder), rows, args, keeps_adapter=keeps_adapter)


def build_on(model, tokenizer, rows, args, *, keeps_adapter=False):  # type: ignore[no-untyped-def]
    """TRL's trainer on an existing model."""
    import torch
    from transformers import Trainer
    from trl import SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    stock = {"model": model, "args": args, "processing_class": tokenizer, "train_dataset": as_dataset(rows)}
    if torch.cuda.is_available():
        trainer = SFTTrainer(**stock)
        for weight in model.parameters():
            if keeps_adapter and weight.requires_grad:
                weight.data = weight.data.float()
        return trainer
    return Trainer(**stock, data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id))


def as_dataset(rows):  # type: ignore[no-untyped-def]
    """Columns input_ids and labels (-100 where not supervised), as TRL reads tokenised rows."""
    from datasets import Dataset

    from sft.batches import IGNORED

    labels = [[t if flag else IGNORED for t, flag in zip(row.input_ids, row.loss_mask, strict=True)] for row in rows]
    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": labels})


def profile_step(trainer, file: Path, at: int) -> None:  # type: ignore[no-untyped-def]
    """Write PyTorch's table of one step, by time on the device."""
    import torch
    from transformers import TrainerCallback

    profiler = torch.profiler.profile()

    class Around(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            if state.global_step == at:
                profiler.start()

        def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            if state.global_step == at + 1:
                profiler.stop()
                key = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
                file.write_text(profiler.key_averages().table(sort_by=key, row_limit=60, max_name_column_width=70))

    trainer.add_callback(Around())
