"""Pico models: real files of real architectures that cost milliseconds."""

import json
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# As Qwen2-VL's, of which a video is one token; the code puts in as many as it has patches.
CHATML_VIDEO = CHATML.replace(
    "{{ message.content }}",
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}",
)


def build_pico_tokenizer(texts=(), special=()):
    """Train a byte-level BPE tokenizer of 512 tokens in memory, with a ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        ["the quick brown fox answers a question about data", *texts],
        trainers.BpeTrainer(
            vocab_size=512,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def build_pico_model(path, seed=0, **config):
    """Save a two-layer Llama with seeded random weights (vocabulary 512) in Hugging Face layout; return its path."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_pico_tokenizer()
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | config
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def build_pico_vlm(path, seed=0, texts=(), sizes=None, seeing=None):
    """Save a Qwen2-VL of two layers and a seeing part of two in Hugging Face layout; return its path."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = build_pico_tokenizer(texts, special=marks)
    tokenizer.chat_template = CHATML_VIDEO
    ids = dict(
        zip(("vision_start", "vision_end", "image", "video"), tokenizer.convert_tokens_to_ids(marks), strict=True)
    )
    torch.manual_seed(seed)
    text = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    } | (sizes or {})
    # Pairs of dimensions of a head that turn with time, height and width.
    pairs = text["hidden_size"] // text["num_attention_heads"] // 2
    section = [pairs // 4, (pairs - pairs // 4) // 2, (pairs - pairs // 4 + 1) // 2]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": section}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": text["hidden_size"], "num_heads": 2}
    vision |= {"mlp_ratio": 2, "patch_size": 14} | (seeing or {})
    config = Qwen2VLConfig(
        text_config=text, vision_config=vision, **{f"{name}_token_id": number for name, number in ids.items()}
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 3136,
        "max_pixels": 1003520,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (Path(path) / "preprocessor_config.json").write_text(json.dumps(processor))
    return Path(path)


def teach_pico_model(path, steps=150, seed=0):
    """Train a pico model to answer any question with one of many short sentences, and to end its turn; return its path.

    What it says is drawn, not known: greedy decoding, beam search and samples differ.
    """
    import random

    import torch
    from moult.data.prompts import Example
    from moult.training.encoding import collate, encode_examples
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path)
    words, optimizer = random.Random(seed), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        texts = (
            f"{words.choice(['the', 'a', 'this'])} {words.choice(['quick', 'brown', 'question'])} fox"
            f"{words.choice([' answers data', ' about data', '', ' quick and brown'])}"
            for _ in range(8)
        )
        asked = [{"role": "user", "content": f"question {words.random()}"}]
        rows, _, _ = encode_examples(tokenizer, [Example("", asked, text) for text in texts], 256)
        batch = collate(rows)
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(path)
    return Path(path)
