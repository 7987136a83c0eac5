"""Examples and pairs encoded as rows of tokens and padded into batches; log-probabilities of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from moult.base.rows import Dropped
from moult.data.prompts import Example, videos_of
from moult.inference.engines.trees import tree_mask
from moult.inference.tokens import chat_tokens
from moult.inference.vision import Vision
from moult.training.pairs import Pair

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Encoded(TypedDict, total=False):
    """A row of tokens: of an example input_ids and start, of a preference completions and preferred.

    input_ids: prompt, answer, end of turn; start: index of the first token behind the prompt; videos: digests of the
    frames of those that it shows. completions: a row each, those to prefer first; preferred: how many these are;
    reference: log-probability of each answer under the frozen reference, in nats.
    """

    input_ids: list[int]
    start: int
    videos: list[str]
    completions: list[Encoded]
    preferred: int
    reference: list[float]


# What a batch of preferences holds that is not the model's to read.
NOT_THE_MODELS = ("labels", "shift_labels", "targets", "preferred", "reference", "owners", "answers")
# A row without an answer: it counts nowhere.
BLANK: Encoded = {"input_ids": [0], "start": 1}


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example], max_length: int, vision: Vision | None = None
) -> tuple[list[Encoded], int, list[Dropped]]:
    """Return (rows, number of truncated prompts, dropped) for chat examples; `vision` where they show videos.

    A row has `input_ids`, the tokens of the conversation as the chat template renders it, up to the end of the answer's
    turn; `start`, the index of the first one behind the prompt; and `videos` where it has some. A prompt that is too
    long loses its oldest tokens, save a leading BOS that many models lean on, and all up to its last video; an answer
    is never truncated: a row whose answer leaves no room for a token of prompt is dropped as {uid, reason}.
    """
    chat = chat_tokens(tokenizer)
    rows: list[Encoded] = []
    dropped: list[Dropped] = []
    truncated = 0
    for example in examples:
        prompt, (answer,) = chat.answered(example.messages, [example.answer])
        head = [token for token in prompt[:1] if token == tokenizer.bos_token_id]
        what = "the answer and its end are"
        if videos := videos_of(example.messages):
            assert vision is not None, "examples that show videos need the model's vision"
            prompt = vision.expand(prompt, videos)
            # The last placeholder, and the token behind it that ends the video.
            head = prompt[: len(prompt) - prompt[::-1].index(vision.token) + 1]
            what = "the prompt up to its last video, the answer and its end are"
        room, kept = max_length - len(answer), len(head) if videos else 0
        if room - kept < 1:
            reason = f"{what} too long, max_length is {max_length}"
            dropped.append({"uid": example.uid, "reason": reason})
            continue
        truncated += len(prompt) > room
        prompt = _last(prompt, room, head)
        row: Encoded = {"input_ids": prompt + answer, "start": len(prompt)}
        if videos:
            row["videos"] = videos
        rows.append(row)
    return rows, truncated, dropped


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair], max_length: int
) -> tuple[list[Encoded], int, list[Dropped]]:
    """Return (rows, number of truncated prompts, dropped) for preference pairs, as `encode_examples` does.

    A row has `completions`, one row as `encode_examples` makes it per answer, the chosen answers first, and
    `preferred`, the number of chosen answers. All have the same prompt, truncated to fit the longest answer.
    """
    chat = chat_tokens(tokenizer)
    rows: list[Encoded] = []
    dropped: list[Dropped] = []
    truncated = 0
    for pair in pairs:
        prompt, answers = chat.answered(pair.messages, [*pair.chosen, *pair.rejected])
        longest = max(map(len, answers))
        head = [token for token in prompt[:1] if token == tokenizer.bos_token_id]
        room = max_length - longest
        if room < 1:
            reason = f"the longer answer and its end are too long, max_length is {max_length}"
            dropped.append({"uid": pair.uid, "reason": reason})
            continue
        truncated += len(prompt) > room
        prompt = _last(prompt, room, head)
        encoded: list[Encoded] = [{"input_ids": prompt + answer, "start": len(prompt)} for answer in answers]
        rows.append({"completions": encoded, "preferred": len(pair.chosen)})
    return rows, truncated, dropped


def _last(prompt, room, head):
    """Return a prompt that fits into `room` tokens: the whole, or `head` and its last tokens."""
    return prompt if len(prompt) <= room else head + prompt[len(prompt) - room + len(head) :]


def length_of(row: Encoded) -> int:
    """Return the tokens of a row, or of the longest answer of a preference with its prompt."""
    return max(len(one["input_ids"]) for one in row.get("completions", [row]))


def collate_pairs(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return a batch of preferences: `collate` of all first answers, then of all second ones, and so on.

    Below, `answers` is the largest number of answers that a row has, at least two; rows with fewer are padded with
    blank answers. `targets` (answers × rows, longest answer) are the tokens to be predicted. `labels` (rows) is -100 of
    a blank row, else 0. `preferred` (rows) is the number of chosen answers, which come first. `reference` (rows,
    answers), where rows have it, holds the answers' log-probabilities under the frozen reference, in nats.
    """
    held, most = _answers(rows)
    batch = collate([(answers + [BLANK] * most)[place] for place in range(most) for answers in held])
    return batch | {"targets": batch["labels"]} | _of_rows(rows, most)


def collate_trees(rows: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return a batch of preferences as `collate_pairs` does, with a row's answers behind one copy of its prompt.

    `input_ids` (rows, longest row) are padded on the right. `owners`, in their shape, is 0 of padding, 1 of the prompt,
    and 2 of the first answer, 3 of the second, and so on; `position_ids` is the place behind the prompt's beginning. Of
    a row `targets` (rows, most tokens of answers) has those of all answers, `answers` which answer each belongs to, and
    `logits_to_keep` the position that predicts it. `reference` (rows, answers) is there in any case.
    """
    import torch

    held, most = _answers(rows)
    trees: dict[str, list[list[int]]] = {}
    for answers in held:
        start = answers[0]["start"] if answers else 1
        ids = answers[0]["input_ids"][:start] if answers else BLANK["input_ids"]
        row = {"input_ids": [*ids], "owners": [1] * start, "position_ids": [*range(start)]}
        row |= {"targets": [], "answers": [], "logits_to_keep": []}
        for number, answer in enumerate(answers):
            # The last token is predicted and predicts nothing.
            *before, last = answer["input_ids"][start:]
            place = len(row["input_ids"])
            row["targets"] += [*before, last]
            row["answers"] += [number] * (len(before) + 1)
            row["logits_to_keep"] += [start - 1, *range(place, place + len(before))]
            row["input_ids"] += before
            row["owners"] += [number + 2] * len(before)
            row["position_ids"] += range(start, start + len(before))
        for key, values in row.items():
            trees.setdefault(key, []).append(values)
    batch = {key: _padded(values, -100 if key == "targets" else 0) for key, values in trees.items()}
    batch["attention_mask"] = (batch["owners"] > 0).long()
    return {"reference": torch.zeros(len(rows), most)} | batch | _of_rows(rows, most)


def _answers(rows):
    """Return the encoded answers of each row, and the largest number of them, at least two."""
    held = [row.get("completions", []) for row in rows]
    return held, max(2, *map(len, held))


def _of_rows(rows, most):
    """Return what a batch of preferences has of each row: `labels`, `preferred`, and `reference` where rows have it."""
    import torch

    counted = torch.tensor([0 if "completions" in row else -100 for row in rows])
    batch = {"labels": counted, "shift_labels": counted}
    batch["preferred"] = torch.tensor([row.get("preferred", 0) for row in rows])
    if any("reference" in row for row in rows):
        padded = [(row.get("reference", []) + [0.0] * most)[:most] for row in rows]
        batch["reference"] = torch.tensor(padded, dtype=torch.float64)
    return batch


def collate(rows: Sequence[Encoded], vision: Vision | None = None) -> dict[str, torch.Tensor]:
    """Return a batch (rows, longest row) padded on the right, with the answers as labels, and the rows' videos.

    `logits_to_keep` names, row by row, the positions that predict the answer, so that the model computes logits
    there alone; `labels`, and `shift_labels` since they need no shift any more, are the tokens to be predicted.
    """
    labels = _padded([row["input_ids"][row["start"] :] for row in rows], -100)
    ids = _padded([row["input_ids"] for row in rows], 0)
    seen = vision.inputs(ids, [row.get("videos", []) for row in rows]) if vision else {}
    return seen | {
        "input_ids": ids,
        "attention_mask": _padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "logits_to_keep": _padded([range(row["start"] - 1, len(row["input_ids"]) - 1) for row in rows], 0),
        "labels": labels,
        "shift_labels": labels,
    }


def _padded(values, padding):
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor(value, dtype=torch.long) for value in values]
    return pad_sequence(rows, batch_first=True, padding_value=padding)


def answer_logps(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (rows,) summed log-probabilities of the answers' tokens, in nats, and (rows,) their numbers.

    logits: (rows, longest answer, vocabulary), each predicting the target in its place; targets: -100 is padding.
    """
    return -_losses(logits, targets).sum(-1), (targets != -100).sum(-1)


def _losses(logits, targets):
    """Return the negative log-probability of each target, in the shape of `targets`; 0 of padding."""
    import torch

    # The vocabulary stays the last dimension: along another torch sums it term by term on a CPU, whose float32 loses a
    # digit over 50,000 terms, and takes three times as long.
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets)


def exact_dtype(device: torch.device) -> torch.dtype:
    """Return what sums of log-probabilities are kept in on a device: a sum of some hundred nats has no more than five
    digits behind the point in float32, of which a difference of two sums keeps fewer. Apple's GPUs have no float64."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def preference_logps(
    model: Any, base: PreTrainedModel, batch: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (answers, rows) summed log-probabilities of the answers of a batch of preferences, in nats, and (answers,
    rows) numbers of their tokens; both are 0 of padding.

    model: what is called; base: the model of transformers that it holds; batch: as `collate_pairs` or `collate_trees`
    makes it.
    """
    import torch

    inputs = {name: value for name, value in batch.items() if name not in NOT_THE_MODELS}
    targets, rows = batch["targets"], len(batch["labels"])
    exact = exact_dtype(targets.device)
    if "owners" not in batch:
        losses = _losses(model(**inputs).logits, targets)
        return -losses.sum(-1, dtype=exact).view(-1, rows), (targets != -100).sum(-1).view(-1, rows)
    inputs["attention_mask"] = tree_mask(base, batch["position_ids"], batch["owners"])
    losses = _losses(model(**inputs).logits, targets)
    places = torch.arange(batch["reference"].shape[1], device=targets.device)
    mine = (batch["answers"] == places[:, None, None]) & (targets != -100)
    return -(losses * mine).sum(-1, dtype=exact), mine.sum(-1)
