"""A GGUF file unpacked into Hugging Face layout."""

from pathlib import Path

from moult.base.errors import UserError
from moult.base.lean_imports import hide_deepspeed


def convert_gguf(gguf: Path, folder: Path, dtype: str) -> str | None:
    """Write a GGUF model to `folder` in Hugging Face layout; return the licence it states, or None."""
    import torch
    import transformers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    from transformers.integrations.gguf.reader import read_gguf_metadata

    hide_deepspeed()
    transformers.logging.disable_progress_bar()
    metadata, _ = read_gguf_metadata(str(gguf))
    place = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**place)
    split = metadata.get("tokenizer.ggml.pre", "default")
    if split == "smollm":
        # transformers takes GPT-2's split for this name, and then a run of blanks before a digit gets other
        # tokens than the model was trained with (and than llama.cpp gives): every digit stands alone, first.
        from tokenizers import pre_tokenizers

        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif split not in {"default", "gpt-2", *GGUF_PRE_TOKENIZER_SPLITS}:
        raise UserError(f"GGUF tokenizer of kind {split!r} is not supported; fetch this model from a hub instead.")
    model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
        **place,
        output_loading_info=True,
        dtype=getattr(torch, dtype),
        # Else the weights stay packed, and a packed model cannot be saved.
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    if missing := sorted(loaded["missing_keys"]):
        # transformers makes them up at random.
        raise ValueError(f"no tensor for {missing[0]}")
    vars(model.config).pop("_model_name_or_path", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return metadata.get("general.license")
