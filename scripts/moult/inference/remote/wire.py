"""OpenAI's chat completions: a request as its JSON, a reply's JSON as an answer or as the reason why it is none."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from moult.base.outside import Unreadable, clean_text, one_line, parse_json
from moult.inference.remote.errors import problem_of
from moult.inference.requests import Answer, ChatRequest
from moult.inference.usage import reported_tokens, worst_case

# What a form that is asked for is called.
FUNCTION = "answer"
# How the reasons begin of a reply that has not the form that was asked for.
OFF_FORM = ("the reply is not ", "the reply breaks the schema")
# Characters of a reply that are kept beside the reason why it is no answer.
LONGEST_RAW = 100_000
# Why a model stopped, in the words of one server or another: lower case, without what is no letter.
STOPPED = {"stop", "eos", "eostoken", "eosid", "endturn", "endofturn", "stopsequence", "stoptoken", "endoftext", "end"}
STOPPED |= {"complete", "completed", "finished", "finish", "done", "success", "natural", "stopstring"}
CUT = {"length", "maxtokens", "modellength", "maxlength", "maxoutputtokens", "maxnewtokens", "tokenlimit", "limit"}
CUT |= {"maxcompletiontokens", "modelcontextwindowexceeded", "contextlength", "contextlengthexceeded", "incomplete"}
FILTERED = {
    "contentfilter",
    "contentfiltered",
    "safety",
    "recitation",
    "blocklist",
    "prohibitedcontent",
    "spii",
    "blocked",
}
FILTERED |= {
    "refusal",
    "refused",
    "sensitive",
    "moderation",
    "flagged",
    "guardrailintervened",
    "guardrail",
    "errortoxic",
}
CALLED = {"toolcalls", "toolcall", "tooluse", "functioncall", "functioncalls"}


def chat_body(request: ChatRequest, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a chat completions call as plain JSON. Choices are asked for as a schema.

    settings: `model`; `reasoning_effort`, if any; `structured`, how a schema is asked for: as `response_format`, or as
    the parameters of the one `function` that the model must call (models older than response_format's schemas);
    `max_tokens_as`, the name that the API has for max_tokens.
    """
    sampling = request.sampling
    body = {
        "model": settings["model"],
        "messages": request.messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        settings.get("max_tokens_as") or "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    if settings.get("reasoning_effort"):
        body["reasoning_effort"] = settings["reasoning_effort"]
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if request.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    schema = _schema_of_choices(request.choices) if request.choices else request.schema
    if schema and settings.get("structured") == "function":
        body["tools"] = [{"type": "function", "function": {"name": FUNCTION, "parameters": schema}}]
        body["tool_choice"] = {"type": "function", "function": {"name": FUNCTION}}
    elif schema:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": FUNCTION, "schema": schema, "strict": True},
        }
    return body


def _schema_of_choices(choices):
    return {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(choices)}},
        "required": ["choice"],
        "additionalProperties": False,
    }


def guarded(
    read: Callable[[], Any], request: ChatRequest, raw: str, passing: tuple[type[BaseException], ...] = ()
) -> Any:
    """Return what `read()` returns: the Answer to a request. Whatever it raises, but for `passing`, becomes an Answer
    with an error: nothing that a server sends ends a job that has paid for other rows.

    raw: the reply as text, which is kept then.
    """
    try:
        return read()
    except (*passing, KeyboardInterrupt, SystemExit, GeneratorExit):  # type: ignore[misc]  # all are exceptions
        raise
    except BaseException as error:  # a Rust library's panic is no Exception
        return unreadable(raw, request, f"the reply cannot be read ({type(error).__name__}: {one_line(error, 200)})")


def unreadable(text: str, request: ChatRequest, why: str) -> Answer:
    """Return the Answer to a request whose reply was paid for but cannot be read; `text` is what there is of it."""
    counts = worst_case(request.as_dict())
    return Answer("", "error", error=one_line(why), assumed=True, raw=clean_text(text[:LONGEST_RAW]), **counts)


def failure(reply: object, request: ChatRequest, reason: str) -> Answer:
    """Return the Answer to a request that a reply (any JSON or text) says has failed: with the counts of tokens and
    the reply itself where it reports tokens, or has some text, and so was paid for."""
    choice = _first(reply)
    message = choice.get("message") if choice else None
    said = _text_in(message.get("content")) if isinstance(message, dict) else None
    size = len(said.encode(errors="replace")) if isinstance(said, str) else 0
    counts, assumed = reported_tokens(reply, request.as_dict(), size, paid=size > 0)
    raw = raw_of(reply) if any(counts.values()) else None
    return Answer("", "error", error=one_line(reason), assumed=assumed, raw=raw, **counts)


def raw_of(reply: object) -> str | None:
    """Return a reply as the JSON text that is kept of it."""
    try:
        return clean_text(json.dumps(reply, ensure_ascii=False))[:LONGEST_RAW]
    except (ValueError, RecursionError, TypeError):
        return None


def answer_of(reply: object, request: ChatRequest) -> Answer:
    """Return the Answer of a reply (any JSON) to a request: its text, or finish_reason error and why.

    The tokens that the reply reports are in either: they were paid for. A reply that is no usable answer is kept
    whole beside the reason.
    """
    choice = _first(reply)
    message = choice.get("message") if choice else None
    message = message if isinstance(message, dict) else choice if choice and "text" in choice else None
    content = _text_in(message.get("content", message.get("text"))) if message else None
    wanted = request.choices or request.schema
    called = _arguments(message.get("tool_calls")) if wanted and message else None
    said = called if called is not None else content
    if wanted and isinstance(said, dict):
        said = json.dumps(said, ensure_ascii=False)
    # Without counts of tokens the bytes of what was said stand for them.
    size = len(said.encode(errors="replace")) if isinstance(said, str) else 0
    counts, assumed = reported_tokens(
        reply, request.as_dict(), size, paid=isinstance(reply, dict) and "choices" in reply
    )

    def failed(reason):
        return Answer("", "error", error=one_line(reason), assumed=assumed, raw=raw_of(reply), **counts)

    ended = _ending(choice or {}, message or {})
    if message and message.get("refusal"):
        return failed(f"refused: {_text_in(message['refusal']) or message['refusal']}")
    if ended == "filtered":
        return failed("refused: stopped by the content filter")
    if message is None:
        return failed(f"the reply has no choices: {problem_of(reply).message}".rstrip(": "))
    if called is not None:
        ended = "length" if ended == "length" else "stop"
    elif message.get("tool_calls") or message.get("function_call"):
        return failed("the reply calls a tool instead of answering")
    if not isinstance(said, str | None):
        return failed(f"the content of the reply is a {type(said).__name__}, not text")
    text = (said or "").strip()
    if ended is None:
        # Nothing is said of the end: the answer was cut if it is as long as it could be.
        ended = "length" if not assumed and counts["completion_tokens"] >= request.sampling.max_tokens else "stop"
    if ended not in ("stop", "length"):
        return failed(f"the reply ended for an unknown reason, finish_reason {ended!r}")
    if wanted:
        text, problem = _checked(text, request)
        if problem:
            return failed(f"{problem}{', it was cut at max_tokens' if ended == 'length' else ''}")
        ended = "stop"
    likeliest = _logprobs(choice or {}) if request.top_logprobs else None
    if request.top_logprobs and likeliest is None:
        return failed("the reply has no log-probabilities, which were asked for")
    # A model that only thought has said nothing, but was paid for it.
    raw = None if text or likeliest else raw_of(reply)
    return Answer(text, ended, assumed=assumed, raw=raw, logprobs=likeliest, **counts)


def _logprobs(choice):
    """Return token → log-probability of the likeliest first tokens of a choice, None where it does not tell them."""
    try:
        told = choice["logprobs"]["content"][0]["top_logprobs"]
        found = {one["token"]: float(one["logprob"]) for one in told if isinstance(one["token"], str)}
    except (TypeError, KeyError, IndexError, ValueError):
        return None
    return {clean_text(token): value for token, value in found.items() if value <= 0} or None


def _first(reply):
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _text_in(content):
    """Return the text of a message's content: itself, or its parts that are text, joined. What is none comes back."""
    if isinstance(content, str):
        return clean_text(content)
    parts = content if isinstance(content, list) else [content]
    if not parts or not all(isinstance(part, str | dict) for part in parts):
        return content
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        if kind in ("thinking", "reasoning", "redacted_thinking"):
            continue
        text = part.get("text") if isinstance(part, dict) else part
        if kind not in ("text", "output_text") or not isinstance(text, str):
            return content
        texts.append(clean_text(text))
    return "".join(texts)


def _ending(choice, message):
    """Return why a choice ended: stop, length, filtered, None where it does not say, else the server's own word."""
    names = ("finish_reason", "finishReason", "stop_reason", "done_reason")
    reason = next((choice[name] for name in names if choice.get(name) is not None), None)
    if isinstance(reason, dict):
        reason = reason.get("type") or reason.get("reason") or reason
    if reason is None or reason == "":
        return None
    word = "".join(filter(str.isalpha, reason.lower())).removeprefix("finishreason") if isinstance(reason, str) else ""
    for meaning, words in (("stop", STOPPED), ("length", CUT), ("filtered", FILTERED)):
        if word in words:
            return meaning
    # Some servers name a call as the end of an answer in the form that was asked for.
    return None if word in CALLED and not message.get("tool_calls") else one_line(reason, 80)


def _arguments(calls):
    """Return the arguments (JSON as text) of a call of the function that was asked for, None where it is none."""
    try:
        (call,) = calls
        if call["function"]["name"] != FUNCTION:
            return None
        arguments = call["function"]["arguments"]
    except (TypeError, ValueError, KeyError):
        return None
    return json.dumps(arguments) if isinstance(arguments, dict) else arguments


def _checked(text, request):
    """Return (text, None) of a reply in the form that was asked for, text being the bare choice; else ("", why)."""
    try:
        value = parse_json(text)
    except Unreadable as error:
        return "", f"the reply is not the JSON that was asked for ({error})"
    if request.choices:
        chosen = value.get("choice") if isinstance(value, dict) else None
        return (chosen, None) if chosen in request.choices else ("", "the reply is not one of the choices")
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    broken = best_match(validator_for(request.schema)(request.schema).iter_errors(value))
    return ("", f"the reply breaks the schema at {broken.json_path}: {broken.message}") if broken else (text, None)
