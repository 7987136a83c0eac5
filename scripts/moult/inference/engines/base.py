"""The base class of engines: it plans batches, and turns prompts into tokens and tokens into answers."""

import functools
import gc
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import digest, read_json
from moult.data.prompts import videos_of
from moult.inference.engines.sharing import shared_batches
from moult.inference.requests import Answer, ChatRequest, CompletionRequest, ContinuationRequest, LabelRequest
from moult.inference.tokens import chat_tokens
from moult.weights.agreement import check_parts

# Raise when the same request would now be answered differently.
VERSION = 1
logger = logging.getLogger(__name__)


def free_memory() -> None:
    """Give back the memory of models that nothing refers to any more, on the GPU too."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()


class Engine:
    """An engine: it plans batches over prompts and yields answers.

    An engine has `tokenizer`, `limit` (tokens of prompt and answer together), `batch_size`, and two methods that
    take one batch: `_complete(prompts, requests)` → per row (new token ids, None or why it failed), and
    `_score(prompts, labels, requests)` → per row and label its log-likelihood, and whether greedy decoding writes it.
    Prompts and labels are lists of token ids; a prompt holds as many placeholders for a video as the model has
    embeddings for it. `vision` is there when requests may show videos. `pads`: a batch of prompts may differ in length.
    `several`: there are several requests to each chat, which stand together in the plan of batches. `shared`: with how
    many tokens all prompts of the next batch to score begin alike, as those of further ones may. `most_tokens`: how
    many of prompts and answers, padding included, a batch may have.
    """

    vision: Any = None
    several = False
    pads = True
    shared = 0
    most_tokens = math.inf
    batch_size: int
    _score: Callable[..., list[list[tuple[float, bool]]]]

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoTokenizer

        folder = Path(folder)
        check_parts(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.chat = chat_tokens(self.tokenizer)
        declared = folder / "generation_config.json"
        ends = read_json(declared).get("eos_token_id") if declared.exists() else None
        ends = ends if isinstance(ends, list) else [ends]
        # What ends a text.
        self.ends = sorted({self.tokenizer.eos_token_id, *ends} - {None})

    @functools.cached_property
    def stops(self) -> list[int]:
        """The tokens that end an answer: those that end a text, and the one that ends a turn."""
        return sorted({*self.ends, *([self.chat.end] if self.tokenizer.chat_template else [])})

    def close(self) -> None:
        """Give back the memory of the model, on the GPU too. Nothing can be asked of the engine afterwards."""
        self.vision = None
        free_memory()

    def _prompt(self, request):
        # An answer of an enforced form has no room for thoughts or a header before it.
        enforced = request.schema is not None or request.choices is not None
        return self._seeing(self.chat.prompt(list(request.messages), enforced and not self._blanks), request)

    @property
    def _blanks(self):
        """What an answer of an enforced form begins with, where that is nothing but blanks."""
        return "" if self.chat.lead.strip() else self.chat.lead

    def _labelled(self, request):
        """Return (tokens of the prompt, those of each label with what ends the turn)."""
        prompt, labels = self.chat.answered(list(request.messages), request.labels)
        return self._seeing(prompt, request), labels

    def _seeing(self, ids, request):
        videos = videos_of(request.messages)
        return self.vision.expand(ids, videos) if videos else ids

    def answer(
        self, requests: Sequence[ChatRequest], missing: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield lists of (index, Answer), a batch at a time, of the `missing` requests (default: all).

        The batches are planned over all requests, whatever their order and whichever are missing. Token counts
        include the token that ended the turn. A request that does not fit into the model is an Answer with an error.
        """
        prompts = [self._prompt(request) for request in requests]
        room = [request.sampling.max_tokens for request in requests]

        def work(rows):
            done = self._complete([prompts[row] for row in rows], [requests[row] for row in rows])
            answers = [self._answer(prompts[row], *completion) for row, completion in zip(rows, done, strict=True)]
            return answers, sum(answer.completion_tokens for answer in answers)

        yield from self._in_batches(requests, prompts, room, missing, work)

    def label_logprobs(
        self, requests: Sequence[LabelRequest], missing: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, list[float] | Answer]]]:
        """Yield lists of (index, one log-likelihood per label), planned and chosen as by `answer`.

        It is the exact sum of natural log-probabilities of the label's tokens and the end of turn, given the chat: of
        all that the chat template writes behind the prompt, a blank or empty thoughts before the label too.
        A request that does not fit into the model is an Answer with an error.
        """
        prompts, labels = zip(*map(self._labelled, requests), strict=True) if requests else ((), ())
        room = [max(map(len, ids)) for ids in labels]

        def work(rows):
            found = self._score(*([values[row] for row in rows] for values in (prompts, labels, requests)))
            scores = [[score for score, _ in labels] for labels in found]
            return scores, sum(len(prompts[row]) + sum(map(len, labels[row])) for row in rows)

        yield from self._in_batches(requests, prompts, room, missing, work)

    def continuations(
        self, requests: Sequence[ContinuationRequest], missing: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield lists of (index, [log-likelihood, 1 if greedy decoding writes it, else 0]) of the missing requests.

        Continuations of equal contexts are scored in one row, and what contexts begin with alike is read once (see
        `sharing`); planned over all requests, as by `answer`.
        """
        wanted = set(range(len(requests)) if missing is None else missing)
        for shared, rows in shared_batches(requests, self.batch_size):
            batch = [kept for row in rows if (kept := [number for number in row if number in wanted])]
            if batch:
                contexts = [list(requests[row[0]].context) for row in batch]
                labels = [[list(requests[number].continuation) for number in row] for row in batch]
                # Of this batch alone: what is scored next may begin otherwise.
                self.shared = shared
                found = self._score(contexts, labels, None)
                pairs = zip(batch, found, strict=True)
                values = [list(zip(row, scores, strict=True)) for row, scores in pairs]
                yield [(number, [score, int(greedy)]) for row in values for number, (score, greedy) in row]

    def completions(
        self, requests: Sequence[CompletionRequest], missing: Sequence[int] | None = None
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield lists of (index, Answer), planned and chosen as by `answer`; the text may go on behind what ends it."""
        contexts = [list(request.context) for request in requests]
        room = [request.sampling.max_tokens for request in requests]

        def work(rows):
            done = self._complete([contexts[row] for row in rows], [requests[row] for row in rows])
            answers = [self._text(requests[row], ids) for row, (ids, _) in zip(rows, done, strict=True)]
            return answers, sum(answer.completion_tokens for answer in answers)

        yield from self._in_batches(requests, contexts, room, missing, work)

    def _text(self, request, ids):
        """Return the Answer to a CompletionRequest from its new tokens."""
        end = next((place for place, token in enumerate(ids) if token in self.ends), None)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True)
        whole = end is not None or any(stop in text for stop in request.until)
        used = len(ids) if end is None else end + 1
        return Answer(text, "stop" if whole else "length", len(request.context), used)

    def _in_batches(self, requests, prompts, room, missing, work):
        missing = set(range(len(requests)) if missing is None else missing)
        fitting = [row for row in range(len(requests)) if len(prompts[row]) + room[row] <= self.limit]
        refused = sorted(missing.difference(fitting))
        if refused:
            yield [(row, self._refusal(prompts[row], room[row])) for row in refused]
        # Longest first: what needs too much memory fails at once.
        chats = {row: digest(prompts[row]) if self.several else "" for row in fitting}
        plan = sorted(fitting, key=lambda row: (-len(prompts[row]), chats[row], digest(requests[row].as_dict())))
        begun = spoken = time.monotonic()
        done, tokens, wanted = 0, 0, len(missing) - len(refused)
        for batch in self._batches(requests, prompts, room, plan):
            rows = [row for row in batch if row in missing]
            if not rows:
                continue
            values, spent = work(rows)
            done, tokens, now = done + len(rows), tokens + spent, time.monotonic()
            if now - spoken > 10 or done == wanted:
                logger.info("%d of %d rows, %.0f tokens/s", done, wanted, tokens / (now - begun))
                spoken = now
            yield list(zip(rows, values, strict=True))

    def _batches(self, requests, prompts, room, plan):
        """Yield the rows of a plan, a batch at a time: of one way to search, a beam counting as a row.

        Where the model may see no padding, of one length of prompts, too.
        """
        ways = {}
        for row in plan:
            sampling = getattr(requests[row], "sampling", None)
            searched = sampling and sampling.beams > 1
            way = (sampling.beams, sampling.length_penalty, sampling.max_tokens) if searched else (1,)
            way += () if not sampling or sampling.repetition_penalty == 1 else (sampling.repetition_penalty,)
            way += () if self.pads or not sampling else (len(prompts[row]),)
            ways.setdefault(way, []).append(row)
        # What writes nothing keeps no keys and values.
        most = self.most_tokens if plan and hasattr(requests[plan[0]], "sampling") else math.inf
        for (beams, *_), rows in ways.items():
            batch, longest = [], 0
            for row in rows:
                longer = max(longest, room[row])
                many = (len(batch) + 1) * beams
                # The first prompt of a batch is its longest.
                if batch and (many > self.batch_size or many * (len(prompts[batch[0]]) + longer) > most):
                    yield batch
                    batch, longer = [], room[row]
                batch, longest = [*batch, row], longer
            yield batch

    def _refusal(self, prompt, room):
        reason = f"a prompt of {len(prompt)} tokens leaves no room for {room} more in the model's {self.limit}"
        return Answer("", "error", prompt_tokens=len(prompt), error=reason)

    def _answer(self, prompt, ids, error):
        """Return the Answer to a prompt from its new tokens, which may go on after the one that ended the turn."""
        end = next((place for place, token in enumerate(ids) if token in self.stops), None)
        counts = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) if end is None else end + 1}
        if error:
            return Answer("", "error", error=error, **counts)
        text = self.chat.answer_of(ids[:end], end is not None)
        return Answer(text, "length" if end is None else "stop", **counts)
