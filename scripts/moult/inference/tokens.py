"""Chats as tokens: those that the model's own chat template renders, and no others.

An answer's tokens are those that stand in the tokens of the whole conversation behind its prompt: blanks, headers and
empty thoughts that the template writes before an answer, the answer, and what ends the turn. What a row says is text:
no token of it is one by which templates open and end turns.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moult.base.errors import UserError
from moult.base.rows import Message
from moult.data.chats import ChatTemplate, default_template, template_variables
from moult.data.prompts import texts_of, with_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tokens that were added to a vocabulary, no words by their looks: `<tool_call>`, `[INST]`, `<｜User｜>`.
_BRACKETED = re.compile(r"[▁\s]*[<\[{].*[>\]}]\s*", re.DOTALL)
# Answers whose tokens are kept: labels come again with each row.
_KEPT = 10_000
_THOUGHTS = re.compile(r"<(\w+)>.*</\1>", re.DOTALL)


def chat_tokens(tokenizer: PreTrainedTokenizerBase) -> ChatTokens:
    """Return the ChatTokens of a tokenizer, which keeps them."""
    known = vars(tokenizer).get("_chat_tokens")
    if known is None or known.source != tokenizer.chat_template:
        known = vars(tokenizer)["_chat_tokens"] = ChatTokens(tokenizer)
    return known


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the token ids of a chat that awaits the assistant's answer; see `ChatTokens.prompt`."""
    return chat_tokens(tokenizer).prompt(messages)


def end_of_turn_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token id that ends the assistant's turn; see `ChatTokens.end`."""
    return chat_tokens(tokenizer).end


class ChatTokens:
    """The tokens of chats by a tokenizer and its chat template.

    Whatever is asked of it raises a UserError where there is no template, or none that can be used.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.source = tokenizer.chat_template
        self.tokenizer = tokenizer
        self._answers: dict[tuple[str, str], list[int]] = {}

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template."""
        text = default_template(self.source)
        if text is None:
            raise UserError(
                "the model has no chat template, by which questions are put to it; give it one by `chat_template` "
                "where it is fetched, e.g. `chat_template: chatml`."
            )
        return ChatTemplate(text, template_variables(self.tokenizer.special_tokens_map))

    # ------------------------------------------------------------ control tokens

    @cached_property
    def control(self) -> dict[str, int]:
        """Token → id of those that a row must not hold: special ones, ones that the template writes, and ones that
        were added and are no words by their looks. Blanks never count, nor what stands for unknown text."""
        found, shown = {}, self.template.shape.shown if self.source else ""
        for number, token in self.tokenizer.added_tokens_decoder.items():
            text = token.content
            if text.strip() and (token.special or text in shown or _BRACKETED.fullmatch(text)):
                found[text] = number
        for text, number in zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True):
            if text.strip():
                found[text] = number
        return found

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What finds control tokens in a text: the longest that begins at a place."""
        return _any_of(self.control)

    @cached_property
    def _core(self):
        """The tokenizer of the library `tokenizers`, None where there is another one inside."""
        return getattr(self.tokenizer, "backend_tokenizer", None)

    def _tags(self, texts):
        """Return (character to stand in its place → character) of all with which a control token could begin; nothing
        where no text holds one, not even as the tokenizer would rewrite it."""
        joined = "".join(texts)
        looks = self._rewritten(joined)
        if not (self.pattern.search(joined) or self.pattern.search(looks) or self._rewritten_pattern.search(looks)):
            return {}
        firsts = {form[0] for token in self.control for form in (token, self._rewritten(token)) if form}
        tagged = sorted(one for one in set(joined) if one in firsts or self._rewritten(one)[:1] in firsts)
        free = (chr(number) for number in range(0x100000, 0x10FF00) if chr(number) not in joined)
        return dict(zip(free, (one for one in tagged if one.strip()), strict=False))

    def _rewritten(self, text):
        """Return a text as the tokenizer's normalizer leaves it in the midst of others."""
        normalizer = self._core.normalizer if self._core is not None else None
        if normalizer is None or not text:
            return text
        return normalizer.normalize_str(f"a{text}").removeprefix(normalizer.normalize_str("a"))

    @cached_property
    def _rewritten_pattern(self):
        return _any_of(filter(None, map(self._rewritten, self.control)))

    # ------------------------------------------------------------ text to tokens

    def _encode(self, text: str, tags: Mapping[str, str]) -> list[int]:
        """Return the tokens of a text; what begins with a tagged character is no control token."""
        if not any(tag in text for tag in tags):
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._core is None:
            # Cut behind each such character, no control token is left in a part.
            parts = re.split(f"(?<=[{''.join(tags)}])", text)
            return [token for part in parts for token in self._encode(_untagged(part, tags), {})]
        return self._plain.encode(text, tags)

    @cached_property
    def _plain(self):
        unknown = {self.tokenizer.unk_token_id}
        return _Plain(self._core, self.control, self.pattern, unknown)

    # ------------------------------------------------------------ prompts

    @cached_property
    def _held(self) -> str:
        """Blanks at the end of the prompt that the tokenizer joins with the answer's first word: they are the answer's,
        so that the tokens of prompt and answer are those of the whole."""
        shape = self.template.shape
        if not shape.before.startswith(shape.prompt):
            return ""
        bare = shape.prompt.rstrip()
        wholes = (
            [self._encode(shape.before + letter, {}) for letter in string.ascii_letters] if bare != shape.prompt else []
        )
        for end in range(len(shape.prompt), len(bare) - 1, -1):
            prompt = self._encode(shape.prompt[:end], {})
            if all(whole[: len(prompt)] == prompt for whole in wholes):
                return shape.prompt[end:]
        return ""

    @cached_property
    def lead(self) -> str:
        """What the template writes behind the prompt before an answer: nothing, a blank, a header, empty thoughts."""
        shape = self.template.shape
        return self._held + shape.before[len(shape.prompt) :] if shape.before.startswith(shape.prompt) else ""

    def prompt(self, messages: Sequence[Message], begun: bool = False) -> list[int]:
        """Return the token ids of a chat that awaits the assistant's answer; a video is the one token of its template.

        begun: with all that stands before the answer in the whole conversation, so that no thoughts come first.
        """
        ready, tags = self._ready(messages)
        if begun:
            prompt, lead, _, _ = self._parted(ready, [])
            return self._encode(prompt + lead, tags)
        return self._encode(self.template.prompt(ready).removesuffix(self._held), tags)

    def answered(self, messages: Sequence[Message], answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return (token ids of a chat's prompt, those of each of several answers with what ends the turn).

        Prompt and answer together are the tokens of the whole conversation, up to the end of the answer's turn. Where
        an answer's first token would reach into the prompt, as a line break before a line break may, prompt and answer
        are encoded apart: the prompt is the one that the model is asked with.
        """
        ready, tags = self._ready(messages, answers)
        prompt, lead, after, said = self._parted(ready, [_tagged(answer, tags) for answer in answers])
        tail, end = self._tail(after)
        # Control tokens part a text: what stands before the last one changes nothing behind it.
        context = prompt[max((found.start() for found in self.pattern.finditer(prompt)), default=0) :]
        ids = [[*self._behind(context, lead + text + tail, tags), *end] for text in said]
        return self._encode(prompt, tags), ids

    def _parted(self, ready, answers):
        """Return (text of the prompt, text between it and the answer, text after the answer, answers as written)."""
        prompt, before, after, said = self.template.around(ready, answers)
        prompt = prompt.removesuffix(self._held)
        if before.startswith(prompt):
            return prompt, before[len(prompt) :], after, said
        if self.template.shape.loses:
            # Such a template forgets the system's words once it is answered.
            return prompt, self.lead, after, said
        return before, "", after, said

    def _ready(self, messages, answers=()):
        """Return (messages as the template can show them, their tagged characters)."""
        ready = self.template.ready(messages)
        texts = texts_of(ready)
        tags = self._tags([*texts, *answers])
        return (with_texts(ready, [_tagged(text, tags) for text in texts]) if tags else ready), tags

    def _behind(self, context, text, tags):
        """Return the tokens of a text behind a context; kept for the next row that has both."""
        known = None if tags else self._answers.get((context, text))
        if known is None:
            head, whole = self._encode(context, tags), self._encode(context + text, tags)
            known = whole[len(head) :] if whole[: len(head)] == head else self._encode(text, tags)
            if not tags:
                if len(self._answers) >= _KEPT:
                    self._answers.clear()
                self._answers[context, text] = known
        return known

    # ------------------------------------------------------------ answers

    def _tail(self, after):
        """Return (the text that ends the assistant's turn, further tokens that do), by what the template writes."""
        if found := self.pattern.search(after):
            return after[: found.end()], []
        return "", [self.end]

    @cached_property
    def end(self) -> int:
        """The token id that ends the assistant's turn: the first control token that the template writes after it.

        Where the template writes none, it is the tokenizer's end of sequence; UserError when there is neither.
        """
        found = self.pattern.search(self.template.shape.after) if self.source else None
        end = self.control[found[0]] if found else self.tokenizer.eos_token_id
        if end is None:
            raise UserError(
                "the model's tokenizer has no end of turn and no eos_token; set eos_token in tokenizer_config.json."
            )
        return end

    @cached_property
    def _closing(self):
        """(what begins thoughts before an answer, what ends them); None where none are known to come."""
        if not self.source:
            return None
        shape = self.template.shape
        if found := _THOUGHTS.fullmatch(self.lead.strip()):
            return f"<{found[1]}>", f"</{found[1]}>"
        if shape.prompt.startswith(shape.before) and (
            found := re.fullmatch(r"\s*<(\w+)>\s*", shape.prompt[len(shape.before) :])
        ):
            # The prompt begins thoughts that no conversation shows.
            return "", f"</{found[1]}>"
        return None

    def answer_of(self, ids: Sequence[int], finished: bool) -> str:
        """Return the text of a generated answer without the thoughts or the header that came before it.

        ids: new tokens up to the end of the turn; finished: whether that came. Of thoughts that did not end, nothing.
        """
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        header = self.lead.strip() if self.source else ""
        if not header and not self._closing:
            return text
        whole = self.tokenizer.decode(ids, skip_special_tokens=False)
        if self._closing:
            opening, closing = self._closing
            _, ended, rest = whole.partition(closing)
            if not ended:
                return "" if (opening in whole if opening else not finished) else text
        else:
            _, ended, rest = whole.rpartition(header)
            if not ended:
                begun = self.pattern.match(header)
                return "" if begun and begun[0] in whole else text
        return _any_of(self.tokenizer.all_special_tokens).sub("", rest).strip()


def _any_of(tokens):
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _tagged(text, tags):
    return text.translate({ord(one): tag for tag, one in tags.items()}) if tags else text


def _untagged(text, tags):
    return text.translate({ord(tag): one for tag, one in tags.items()})


class _Plain:
    """A tokenizer that knows its control tokens by secret names alone: what looks like one is spelt out as text."""

    def __init__(self, core: Any, control: Mapping[str, int], pattern: re.Pattern[str], unknown: set) -> None:
        from tokenizers import Tokenizer

        self.core, self.control, self.pattern = core, control, pattern
        self.ids = set(control.values()) - unknown
        secret = secrets.token_hex(8)
        self.names = {token: f"\U0010fffc{secret}{number:x}\U0010fffd" for token, number in control.items()}
        # An end of text in the midst of it.
        self.gap = f"\U0010fffc{secret}gap\U0010fffd"
        settings = json.loads(core.to_str()) | {"truncation": None, "padding": None}
        settings["added_tokens"] = [
            one | {"content": self.names.get(one["content"], one["content"])} for one in settings["added_tokens"]
        ]
        self.hidden = Tokenizer.from_str(json.dumps(settings))
        self.hidden.add_special_tokens([self.gap])
        self.meant: dict[int, int | None] = {
            self.hidden.token_to_id(name): control[token] for token, name in self.names.items()
        }
        self.meant[self.hidden.token_to_id(self.gap)] = None

    def encode(self, text: str, tags: Mapping[str, str]) -> list[int]:
        """Return the token ids of a text in which tagged characters begin no control token."""
        text = _untagged(self.pattern.sub(lambda found: self.names[found[0]], text), tags)
        ids, wrong = self._once(text)
        for _ in range(20):
            for place in reversed(wrong):
                text = text[:place] + self.gap + text[place:]
            if wrong:
                ids, wrong = self._once(text)
        return ids

    def _once(self, text):
        """Return (token ids, places where a gap is needed, since the vocabulary has a control token as a word, too).

        A control token of a single character cannot be spelt otherwise: it is left out.
        """
        found = self.hidden.encode(text, add_special_tokens=False)
        ids, wrong = [], []
        for own, (start, end) in zip(found.ids, found.offsets, strict=True):
            number = self.meant[own] if own in self.meant else self._spelt(own)
            if own not in self.meant and number in self.ids:
                wrong += [start + 1] if end - start > 1 else []
            elif number is not None:
                ids.append(number)
        return ids, wrong

    def _spelt(self, number):
        return self.core.token_to_id(self.hidden.id_to_token(number))
