"""The next token: structure first, then the row's own draw."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from moult.inference.requests import ChatRequest, Sampling

if TYPE_CHECKING:
    import numpy as np
    import torch


class TokenChooser:
    """A logits processor after which each row's choice is the argmax: structure first, then the row's own draw.

    A row's choice depends on its own request and scores, never on its neighbours in the batch.
    """

    def __init__(
        self, requests: Sequence[ChatRequest], matchers: Sequence[Any], stops: Collection[int], width: int
    ) -> None:
        import numpy as np

        generators = [np.random.default_rng(request.seed) for request in requests]
        self.samplings = [request.sampling for request in requests]
        self.rows = dict(enumerate(zip(self.samplings, matchers, generators, strict=True)))
        self.stops, self.width = stops, width

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (rows, vocabulary) of the next token, changed in place; ids: (rows, length) so far."""
        import torch

        new = ids.shape[1] - self.width
        for row, last in enumerate(ids[:, -1].tolist() if new else []):
            if last in self.stops or new >= self.samplings[row].max_tokens:
                self.rows.pop(row, None)
            elif row in self.rows and self.rows[row][1]:
                self.rows[row][1].consume_token(last)
        for row, (sampling, matcher, generator) in self.rows.items():
            if matcher or sampling.temperature:
                values = scores[row].cpu().numpy()
                values = allow(values, matcher) if matcher else values
                values = draw(values, sampling, generator) if sampling.temperature else values
                scores[row] = torch.from_numpy(values)
        return scores


class Until:
    """A stopping criterion: a row ends where one of its strings stands in what it has written.

    lengths: tokens that a row has written by then; None of one that has not ended so.
    """

    def __init__(self, until: Sequence[Sequence[str]], tokenizer: Any, width: int) -> None:
        """until: strings per row; width: tokens of the prompts."""
        self.until, self.tokenizer, self.width = until, tokenizer, width
        # A token has a byte at least: the string whose last token has just come is within so many tokens.
        self.tail = max(len(stop.encode()) for row in until for stop in row)
        self.lengths: list[int | None] = [None] * len(until)

    def __call__(self, ids: torch.Tensor, scores: Any) -> torch.Tensor:
        """Return which rows have ended, (rows,); ids: (rows, length) so far."""
        import torch

        texts = self.tokenizer.batch_decode(ids[:, self.width :][:, -self.tail :])
        for row, (until, text) in enumerate(zip(self.until, texts, strict=True)):
            if self.lengths[row] is None and any(stop in text for stop in until):
                self.lengths[row] = ids.shape[1] - self.width
        return torch.tensor([length is not None for length in self.lengths], device=ids.device)


def allow(scores: np.ndarray, matcher: Any) -> np.ndarray:
    """Return one row of scores, (vocabulary,) float32, with minus infinity where the structure forbids a token."""
    import numpy as np

    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = np.unpackbits(bits, count=len(scores), bitorder="little")
    return np.where(allowed, scores, -np.inf).astype(np.float32)


def draw(scores: np.ndarray, sampling: Sampling, generator: np.random.Generator) -> np.ndarray:
    """Return one row of scores, (vocabulary,), whose argmax is a draw by temperature, top-k, then top-p.

    Gumbel-max trick: log-probabilities plus independent Gumbel noise have their maximum at a token with just its
    probability. Each token gets its own noise, so scores that differ in their last bits rarely change the draw.
    """
    import numpy as np

    scores = scores / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        # numpy sorts one row ten times as fast as torch.
        ordered = np.sort(scores)[::-1][: sampling.top_k or None]
        mass = np.exp(ordered - ordered[0]).cumsum(dtype=np.float64)
        lowest = ordered[np.searchsorted(mass, sampling.top_p * mass[-1])]
        scores[scores < lowest] = -np.inf
    uniform = generator.random(len(scores), dtype=np.float32).clip(np.finfo(np.float32).tiny)
    return scores - np.log(-np.log(uniform))
