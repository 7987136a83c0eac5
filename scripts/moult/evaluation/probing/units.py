"""Units: what a model's hidden states are averaged over, and where its tokens lie in a text."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moult.base.errors import UserError
from moult.base.files import derive_seed
from moult.base.outside import one_line

# A part of a sentence: which of the unit's texts, its first character, and the one behind its last.
Piece = tuple[int, int, int]
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Unit:
    """What becomes one vector.

    texts: a sentence, or two that the model reads together. elements: of each the pieces whose tokens are averaged, and
    then all elements; without elements it is the average over all tokens.
    """

    texts: tuple[str, ...]
    elements: tuple[tuple[Piece, ...], ...] = ()


def slots_of(
    place: str, kind: str, inputs: Sequence[Any], context: Sequence[str]
) -> tuple[tuple[Unit, ...], tuple[str, ...]]:
    """Return the units of a row, whose vectors are concatenated, and the texts of its inputs.

    place: file and line, for errors. kind: probe_task_type. inputs, context: its literals.
    """
    if "TOKENS" not in kind and "SPANS" not in kind:
        texts = tuple(inputs)
        if not all(isinstance(one, str) and one.strip() for one in texts):
            raise UserError(f"{place}: an input of a {kind} probe is no text; write e.g. ('A sentence.',).")
        pair = "PAIR" in kind
        if len(texts) != 2 and pair:
            raise UserError(f"{place}: a {kind} probe reads two sentences, here are {len(texts)}; correct the row.")
        return (Unit(texts),) if kind.endswith("CROSS") else tuple(Unit((one,)) for one in texts), texts
    together = kind.endswith("CROSS")
    groups: dict[Any, list[tuple[int, int, int]]] = {}
    for number, one in enumerate(inputs):
        _, at, start, end, *group = _span(place, one, context)
        # Tokens stand alone, spans by their number.
        groups.setdefault(group[0] if group and "SPANS" in kind else number, []).append((at, start, end))
    if together and len(context) != 2:
        raise UserError(f"{place}: a {kind} probe reads two sentences, context has {len(context)}; correct the row.")
    units = []
    for key in sorted(groups):
        spans = groups[key]
        if together:
            units.append(Unit(tuple(context), tuple((span,) for span in spans)))
            continue
        places = {at for at, *_ in spans}
        if len(places) > 1:
            raise UserError(f"{place}: span group {key} has words of {len(places)} sentences; give each its own group.")
        elements = tuple(((0, start, end),) for _, start, end in spans)
        units.append(Unit((context[places.pop()],), elements))
    return tuple(units), tuple(str(one[0]) for one in inputs)


def _span(place, one, context):
    ints = isinstance(one, tuple | list) and len(one) in (4, 5) and isinstance(one[0], str)
    if not (ints and all(isinstance(part, int) and not isinstance(part, bool) for part in one[1:])):
        told = f"{one_line(one, 80)} is no (text, sentence, first character, behind the last[, span group])"
        raise UserError(f"{place}: {told}; correct the row.")
    _, at, start, end, *_ = one
    if not 0 <= at < len(context):
        raise UserError(
            f"{place}: {one_line(one, 80)} is in sentence {at}, context has {len(context)}; correct the row."
        )
    if not 0 <= start < end <= len(context[at]):
        told = f"{one_line(one, 80)} is outside its sentence of {len(context[at])} characters"
        raise UserError(f"{place}: {told}; correct the row.")
    return one


def permuted(unit: Unit, seed: int) -> Unit:
    """Return a unit with the words of each of its texts in another order, drawn by seed and text.

    A piece goes with its words: what is left of it in each word is a piece of its own.
    """
    texts, moved = [], []
    for text in unit.texts:
        words = [match.span() for match in WORD.finditer(text)]
        order = list(range(len(words)))
        random.Random(derive_seed(seed, "permutation", text)).shuffle(order)
        at, places, parts = 0, {}, []
        for number in order:
            start, end = words[number]
            places[number] = at - start
            parts.append(text[start:end])
            at += end - start + 1
        texts.append(" ".join(parts))
        moved.append([(start, end, places[number]) for number, (start, end) in enumerate(words)])

    def pieces(piece: Piece) -> list[Piece]:
        part, start, end = piece
        return [
            (part, max(start, first) + by, min(end, last) + by)
            for first, last, by in moved[part]
            if max(start, first) < min(end, last)
        ]

    elements = tuple(tuple(new for piece in element for new in pieces(piece)) for element in unit.elements)
    return Unit(tuple(texts), elements)


@dataclass(frozen=True)
class Reading:
    """The tokens of a unit's texts as a model reads them.

    ids: of the tokens. offsets: per token (part, first character, behind the last), None of one that the tokenizer
    adds. cut: tokens that were left out because the model takes no more.
    """

    ids: list[int]
    offsets: list[Piece | None]
    cut: int = 0


def frame_of(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Return the ids that a tokenizer puts before a text, between two, and behind: none of them where it adds none.

    Between two texts stands its separator, or what ends a text.
    """
    with_added = tokenizer("a", add_special_tokens=True)["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    at = next((n for n in range(len(with_added)) if with_added[n : n + len(bare)] == bare), 0)
    between = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return with_added[:at], [] if between is None else [between], with_added[at + len(bare) :]


def read_text(
    tokenizer: Any, frame: tuple[list[int], list[int], list[int]], texts: Sequence[str], limit: float
) -> Reading:
    """Return the tokens of texts that are read together, at most `limit` of them; what is too long is cut at its end.

    What looks like a control token in a text is text.
    """
    before, between, behind = frame
    ids = list(before)
    offsets: list[Piece | None] = [None] * len(before)
    for part, text in enumerate(texts):
        if part:
            ids += between
            offsets += [None] * len(between)
        told = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        ids += told["input_ids"]
        offsets += [(part, start, end) for start, end in told["offset_mapping"]]
    room = max(0, int(min(limit, len(ids) + len(behind))) - len(behind))
    cut = len(ids) - len(ids[:room])
    return Reading(ids[:room] + behind, [*offsets[:room], *([None] * len(behind))], cut)


def weights_of(unit: Unit, reading: Reading, special: bool) -> tuple[list[float], int]:
    """Return the weight of each token in a unit's vector, which sum to 1, and how many elements have no token.

    A token belongs to a piece when they share a character. An element without a token (cut off, or a character that the
    tokenizer leaves out) counts for nothing; a unit of such elements alone is the average over all tokens. special:
    whether tokens that the tokenizer adds are in the average over all tokens.
    """
    spans = reading.offsets
    found = []
    for element in unit.elements:
        tokens = [
            number
            for number, span in enumerate(spans)
            if span and any(span[0] == part and span[1] < end and start < span[2] for part, start, end in element)
        ]
        if tokens:
            found.append(tokens)
    lost = len(unit.elements) - len(found)
    if not found:
        tokens = [number for number, span in enumerate(spans) if special or span]
        found = [tokens or list(range(len(spans)))]
    weights = [0.0] * len(spans)
    for tokens in found:
        for number in tokens:
            weights[number] += 1 / (len(found) * len(tokens))
    return weights, lost
