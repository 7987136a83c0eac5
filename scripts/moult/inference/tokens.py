"""Chats as tokens, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from moult.base.errors import UserError
from moult.base.rows import Message
from moult.data.prompts import texts_of, with_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], awaits_answer: bool = True
) -> list[int]:
    """Return the token ids of a chat that awaits the assistant's answer, or ends with it; a video is the one token of
    its template.

    Control tokens that stand inside a message (`<|im_start|>` in a row) are spelt out as ordinary text: a row
    cannot open a turn of its own.
    """
    contents = texts_of(messages)
    control = set(tokenizer.all_special_tokens) | {str(token) for token in tokenizer.added_tokens_decoder.values()}
    hostile = any(token in content for content in contents for token in control if token.strip())
    if not hostile:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=awaits_answer)
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    # Blanks that a template takes from around its texts it takes from around a mark, too.
    marks = [f"\v\x02{index}\x03\v" for index in range(len(contents))]
    text = tokenizer.apply_chat_template(
        with_texts(messages, marks), tokenize=False, add_generation_prompt=awaits_answer
    )
    ids = []
    for mark, content in zip(marks, contents, strict=True):
        if mark not in text:
            mark, content = mark.strip(), content.strip()
        before, text = text.split(mark, 1)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
        ids += tokenizer(content, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids + tokenizer(text, add_special_tokens=False)["input_ids"]


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id that ends the assistant's turn: what the chat template puts first after its words.

    Where the template says nothing, it is the tokenizer's end of sequence; UserError when there is neither.
    """
    mark = "\x02answer\x03"
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    text = tokenizer.apply_chat_template(chat, tokenize=False) if tokenizer.chat_template else ""
    control = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    tail = tokenizer(text.partition(mark)[2], add_special_tokens=False)["input_ids"]
    end = next((token for token in tail if token in control), tokenizer.eos_token_id)
    if end is None:
        raise UserError(
            "the model's tokenizer has no end of turn and no eos_token; set eos_token in tokenizer_config.json."
        )
    return end
