"""How many tokens a reply cost: as it reports them, or at its worst case where it reports none that can be true."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

logger = logging.getLogger(__name__)
# No context is longer than so many tokens.
MOST = 10_000_000
# No text has more bytes per token, on average; and so many have one where an answer is longer than max_tokens allow.
BYTES_PER_TOKEN, USUAL_BYTES_PER_TOKEN = 100, 4
# The names of each count at OpenAI, Anthropic, Google, Amazon, llama.cpp and Ollama.
PROMPT: tuple[str, ...] = (
    "prompt_tokens",
    "input_tokens",
    "promptTokenCount",
    "prompt_token_count",
    "inputTokens",
    "promptTokens",
)
PROMPT += ("prompt_eval_count", "prompt_n", "tokens_evaluated")
ANSWER: tuple[str, ...] = (
    "completion_tokens",
    "output_tokens",
    "candidatesTokenCount",
    "candidates_token_count",
    "outputTokens",
)
ANSWER += ("completionTokens", "generated_tokens", "eval_count", "predicted_n", "tokens_predicted")
TOTAL = ("total_tokens", "totalTokenCount", "total_token_count", "totalTokens")
# Tokens that are counted beside those of the prompt, under Anthropic's names.
CACHED = ("cache_read_input_tokens", "cache_creation_input_tokens")


def worst_case(request: dict, said: int = 0) -> dict:
    """Return the most tokens that a request can cost: one per byte of it, and `max_tokens` of an answer.

    request: `ChatRequest.as_dict()`. said: bytes of the answer, which count where the server did not keep to
    `max_tokens`.
    """
    asked = {name: request.get(name) for name in ("messages", "schema", "choices")}
    size = len(json.dumps(asked, ensure_ascii=False).encode(errors="replace"))
    return {
        "prompt_tokens": size,
        "completion_tokens": max(request["sampling"]["max_tokens"], said // USUAL_BYTES_PER_TOKEN),
    }


def reported_tokens(reply: object, request: dict, said: int = 0, paid: bool = True) -> tuple[dict, bool]:
    """Return ({prompt_tokens, completion_tokens}, whether they are assumed) of a reply, which may be any JSON.

    A count that is missing, misspelt, negative or implausible is taken at its worst case. paid: whether a reply
    without any count has to be paid for; an error that reports none costs nothing.
    """
    prompt, answer, total = _reported(reply)
    shown = sum(len(str(message.get("content")).encode(errors="replace")) for message in request["messages"])
    if total is not None and not (shown + said) / BYTES_PER_TOKEN <= total <= MOST:
        total = None
    if not paid and not any((prompt, answer, total)) and not _misreported(reply):
        return {"prompt_tokens": 0, "completion_tokens": 0}, False
    if total is not None:
        prompt = total - answer if prompt is None and answer is not None else prompt
        answer = max(answer or 0, total - prompt) if prompt is not None else answer
    worst = worst_case(request, said)
    counts = {}
    for name, count, size in (("prompt_tokens", prompt, max(shown, 1)), ("completion_tokens", answer, said)):
        plausible = count is not None and size / BYTES_PER_TOKEN <= count <= MOST
        counts[name] = count if plausible else min(worst[name], total or MOST)
    return counts, counts != {"prompt_tokens": prompt, "completion_tokens": answer}


def mended(value: object, request: Callable[[], dict]) -> object:
    """Return a stored answer with its counts at their worst case where older code kept what cannot be true.

    request: returns what was asked; called only where it is needed.
    """
    if not isinstance(value, dict):
        return value
    wrong = [name for name in ("prompt_tokens", "completion_tokens") if name in value and not _stands(value[name])]
    if not wrong:
        return value
    said = len(str(value.get("text")).encode(errors="replace"))
    worst = worst_case(request(), said)
    return value | {name: worst[name] for name in wrong} | {"assumed": True}


def is_answer(value: object) -> bool:
    """Whether a stored value is one that code of any day has written: an answer, or log-likelihoods of labels."""
    if isinstance(value, list):
        return all(isinstance(number, int | float) for number in value)
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), str)
        and value.get("finish_reason") in ("stop", "length", "error")
        and isinstance(value.get("error"), str if value["finish_reason"] == "error" else type(None))
        and _stands(value.get("prompt_tokens"))
        and _stands(value.get("completion_tokens"))
    )


def answers_in(found: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Return what of key → stored value is an answer; say how many are none, which are asked for again."""
    whole = {key: value for key, value in found.items() if is_answer(value)}
    if len(whole) < len(found):
        logger.warning("%s: %d stored answers are none; they are asked for again", where, len(found) - len(whole))
    return whole


def _stands(count):
    return type(count) is int and 0 <= count <= MOST


def _reported(reply):
    """Return the counts (prompt, answer, total) that a reply reports, None for each that it does not."""
    for place in _places(reply):
        prompt, answer, total = (_first(place, names) for names in (PROMPT, ANSWER, TOTAL))
        if prompt is not None and "prompt_tokens" not in place:
            prompt += sum(_whole(place.get(name)) or 0 for name in CACHED)
        if (prompt, answer, total) != (None, None, None):
            return prompt, answer, total
    return None, None, None


def _misreported(reply):
    """Whether a reply has a count of tokens that is none."""
    return any(
        place.get(name) is not None and _whole(place[name]) is None
        for place in _places(reply)
        for name in PROMPT + ANSWER
    )


def _places(reply):
    """Yield the objects of a reply that may hold its counts, the likeliest first."""
    if not isinstance(reply, dict):
        return
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (reply, choice, reply.get("x_groq"), reply.get("meta"), reply.get("metadata"), reply.get("error")):
        if isinstance(holder, dict):
            for name in ("usage", "usageMetadata", "usage_metadata", "billed_units", "tokens", "timings"):
                if isinstance(holder.get(name), dict):
                    yield holder[name]
    yield reply


def _first(place, names):
    return next((count for name in names if (count := _whole(place.get(name))) is not None), None)


def _whole(count):
    """Return a count as a whole number, None where it is none: 12, 12.0 and "12" are 12."""
    if isinstance(count, str) and len(count) < 20:
        try:
            count = float(count)
        except ValueError:
            return None
    if isinstance(count, bool) or not isinstance(count, int | float) or not 0 <= count < math.inf:
        return None
    return int(count) if count == int(count) else None
