"""Chat templates and tokenizers in the shape of those that families of models have, written for the tests.

A family: its template, tokens that open, end or head turns (with those that are special), and how its tokenizer splits
text: `bytes` as GPT-2's, `lines` as Llama 3's (runs of line breaks are one piece), `metaspace` as SentencePiece's.
"""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    template: str
    tokens: tuple[str, ...]
    added: tuple[str, ...] = ()
    splits: str = "bytes"
    bos: str | None = None
    eos: str | None = None
    swallowing: bool = False
    """Whether the tokens take the blanks behind them, as Phi-3's do."""


_TURNS = "{% for m in messages %}"
FAMILIES = {
    "chatml": Family(
        _TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
    ),
    "smollm2": Family(
        _TURNS + "{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are small.<|im_end|>\n{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        eos="<|im_end|>",
    ),
    "llama-2": Family(
        "{% if messages[0].role == 'system' %}"
        "{% set rules = '<<SYS>>\n' + messages[0].content.strip() + '\n<</SYS>>\n\n' %}"
        "{% set turns = messages[1:] %}{% else %}{% set rules = '' %}{% set turns = messages %}{% endif %}"
        "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must take turns') }}{% endif %}{% set said = m.content %}"
        "{% if loop.first %}{% set said = rules + m.content %}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + said.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        splits="metaspace",
        bos="<s>",
        eos="</s>",
    ),
    "llama-3": Family(
        _TURNS
        + "{% set said = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' %}"
        "{% if loop.first %}{% set said = bos_token + said %}{% endif %}{{ said }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        splits="lines",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    ),
    "llama-3.1": Family(
        "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}"
        "{% endif %}{% endif %}"
        "{% if messages[0].role == 'system' %}{% set rules = messages[0].content | trim %}"
        "{% set messages = messages[1:] %}"
        "{% else %}{% set rules = '' %}{% endif %}<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: {{ date_string }}\n\n{{ rules }}<|eot_id|>"
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        splits="lines",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    ),
    "qwen2": Family(
        _TURNS + "{% if loop.first and messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        added=("<tool_call>", "</tool_call>"),
        splits="lines",
        eos="<|im_end|>",
    ),
    "qwen3": Family(
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.last = loop.index0 %}"
        "{% endif %}{% endfor %}{% for m in messages %}{% set thought = '' %}{% set said = m.content %}"
        "{% if m.role == 'assistant' and '</think>' in m.content %}"
        "{% set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if m.role == 'assistant' and loop.index0 > ns.last and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}"
        "{% else %}{{ '<|im_start|>' + m.role + '\n' + said }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}"
        "{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        added=("<think>", "</think>", "<tool_call>", "</tool_call>"),
        splits="lines",
        eos="<|im_end|>",
    ),
    "mistral": Family(
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        splits="metaspace",
        bos="<s>",
        eos="</s>",
    ),
    "mistral-v0.3": Family(
        "{% if messages[0].role == 'system' %}{% set rules = messages[0].content %}{% set turns = messages[1:] %}"
        "{% else %}{% set turns = messages %}{% endif %}{{ bos_token }}{% for m in turns %}"
        "{% if m.role == 'user' %}{% if loop.last and rules is defined %}"
        "{{ '[INST] ' + rules + '\n\n' + m.content + '[/INST]' }}{% else %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        ("<s>", "</s>", "[INST]", "[/INST]"),
        splits="metaspace",
        bos="<s>",
        eos="</s>",
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}"
        "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        added=("\n\n", "   "),
        splits="metaspace-never",
        bos="<bos>",
        eos="<eos>",
    ),
    "phi-3": Family(
        _TURNS + "{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|endoftext|>", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>"),
        splits="metaspace",
        eos="<|endoftext|>",
        swallowing=True,
    ),
    "zephyr": Family(
        _TURNS + "{{ '<|' + m.role + '|>\n' + m.content + eos_token }}\n{% if loop.last and add_generation_prompt %}"
        "{{ '<|assistant|>' }}\n{% endif %}{% endfor %}",
        ("<s>", "</s>"),
        splits="metaspace",
        bos="<s>",
        eos="</s>",
    ),
    "deepseek": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}"
        "{% elif m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}{% else %}"
        "{{ 'Assistant: ' + m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
        "{{ 'Assistant:' }}{% endif %}",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        splits="lines",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
    "deepseek-r1": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
        "{{ '<｜User｜>' + m.content }}{% else %}"
        "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        splits="lines",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
    ),
    "falcon": Family(
        "{% for m in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}{% if m.role == 'system' %}"
        "{{ m.content }}"
        "{% elif m.role == 'user' %}{{ 'User: ' + m.content }}{% else %}{{ 'Falcon: ' + m.content }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\nFalcon:' }}{% endif %}",
        ("<|endoftext|>",),
        eos="<|endoftext|>",
    ),
    "open answer": Family(
        "{% for m in messages %}{{ '### ' + m.role | capitalize + ': ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' else '\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '### Assistant: ' }}{% endif %}",
        ("<|endoftext|>",),
        eos="<|endoftext|>",
    ),
    "command-r": Family(
        "{{ bos_token }}{% for m in messages %}"
        "{% set role = 'CHATBOT' if m.role == 'assistant' else m.role | upper %}"
        "{{ '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}",
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        added=("<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "gpt-oss": Family(
        "<|start|>system<|message|>You are a model.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}<|end|>"
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% else %}"
        "{{ '<|start|>' + ('developer' if m.role == 'system' else m.role) + '<|message|>' + m.content + '<|end|>' }}"
        "{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|endoftext|>"),
        splits="lines",
        eos="<|return|>",
    ),
    "granite": Family(
        "{% for m in messages %}"
        "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        eos="<|end_of_text|>",
    ),
    "smollm3": Family(
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ '<|im_start|>assistant\n' + m.content + '<|im_end|>\n' }}"
        "{% endgeneration %}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n' }}{% else %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
        added=("<think>", "</think>"),
        splits="lines",
        eos="<|im_end|>",
    ),
    "marks that are words": Family(
        "{% for m in messages %}@{{ m.role }}@ {{ m.content }} @end@\n{% endfor %}{% if add_generation_prompt %}"
        "@assistant@{% endif %}",
        ("<|endoftext|>",),
        added=("@user@", "@assistant@", "@system@", "@end@"),
        eos="<|endoftext|>",
    ),
}
# Two regular expressions by which byte-level tokenizers split.
_LINES = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEXTS = (
    "the quick brown fox answers a question about data",
    "user assistant system model User: Assistant: Falcon: question answer joy anger fear no joy at all",
    "\n\n \n  [INST] [/INST] final think ### Assistant: ### User: ",
)


def tokenizer_of(family: Family, template: str | None = None):
    """Return the family's tokenizer of some 700 tokens, trained in memory."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if family.splits.startswith("metaspace"):
        scheme = "never" if family.splits.endswith("never") else "first"
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        core.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme), decoders.Fuse()]
        )
        alphabet = []
        first = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    else:
        core = Tokenizer(models.BPE())
        core.decoder = decoders.ByteLevel()
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if family.splits == "lines":
            from tokenizers import Regex

            split = pre_tokenizers.Split(Regex(_LINES), "isolated")
            core.pre_tokenizer = pre_tokenizers.Sequence(
                [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
            core.normalizer = normalizers.NFC()
        alphabet, first = pre_tokenizers.ByteLevel.alphabet(), []
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(_TEXTS * 3, trainer)
    # SentencePiece's bytes are words of the vocabulary, and no added tokens.
    core = Tokenizer.from_str(json.dumps(json.loads(core.to_str()) | {"added_tokens": []}))
    core.add_special_tokens([AddedToken(token, rstrip=family.swallowing, normalized=False) for token in family.tokens])
    core.add_tokens([AddedToken(token, normalized=False) for token in family.added])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=family.bos, eos_token=family.eos, additional_special_tokens=list(family.tokens)
    )
    made.chat_template = family.template if template is None else template
    return made
