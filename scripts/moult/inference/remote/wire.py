"""OpenAI's chat completions: a request as its JSON, a reply's JSON as an answer or as the reason why it is none."""

import json

from moult.inference.requests import Answer

# Codes of an account that has no money left, whatever the status they come with.
NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
# What a form that is asked for is called.
FUNCTION = "answer"
# How the reasons begin of a reply that has not the form that was asked for.
OFF_FORM = ("the reply is not ", "the reply breaks the schema")


def chat_body(request, settings):
    """Return the body of a chat completions call as plain JSON. Choices are asked for as a schema.

    settings: `model`; `structured`, how a schema is asked for: as `response_format`, or as the parameters of the one
    `function` that the model must call (models older than response_format's schemas).
    """
    sampling = request.sampling
    body = {
        "model": settings["model"],
        "messages": request.messages,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    if sampling.top_k:
        body["top_k"] = sampling.top_k
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


def answer_of(reply, request):
    """Return the Answer of a reply (any JSON) to a request: its text, or finish_reason error and why. The tokens that
    the reply reports are in either: they were paid for."""
    counts = reported_tokens(reply)

    def failed(reason):
        return Answer("", "error", error=reason[:300], **counts)

    choice = _first(reply)
    message = choice and choice.get("message")
    if not isinstance(message, dict):
        return failed(f"the reply has no choices: {error_of(reply)[1]}".rstrip(": "))
    ended, content = choice.get("finish_reason"), message.get("content")
    if message.get("refusal"):
        return failed(f"refused: {message['refusal']}")
    if ended == "content_filter":
        return failed("refused: stopped by the content filter")
    if (request.choices or request.schema) and (called := _arguments(message.get("tool_calls"))) is not None:
        content, ended = called, "length" if ended == "length" else "stop"
    elif message.get("tool_calls") or message.get("function_call"):
        return failed("the reply calls a tool instead of answering")
    if not isinstance(content, str | None):
        return failed(f"the content of the reply is a {type(content).__name__}, not text")
    if ended not in ("stop", "length"):
        return failed(f"the reply ended for an unknown reason, finish_reason {ended!r}")
    text = (content or "").strip()
    if request.choices or request.schema:
        text, problem = _checked(text, request)
        if problem:
            return failed(f"{problem}{', it was cut at max_tokens' if ended == 'length' else ''}")
        ended = "stop"
    return Answer(text, ended, **counts)


def reported_tokens(reply):
    """Return prompt_tokens and completion_tokens as a reply (any JSON) reports them, else 0."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    counts = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    return {name: count if isinstance(count, int) else 0 for name, count in counts.items()}


def error_of(reply):
    """Return (code, message) of an error reply (any JSON or text), in the forms that servers are known to send."""
    error = reply.get("error", reply) if isinstance(reply, dict) else reply
    if not isinstance(error, dict):
        return None, " ".join(str(error).split())
    # A code is a word at OpenAI; where it is but the status again, the type says more.
    words = [word for word in (error.get("code"), error.get("type")) if isinstance(word, str)]
    code = next((word for word in words if word in NO_QUOTA), next(iter(words), None))
    return code, str(error.get("message") or error.get("detail") or "")


def _first(reply):
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None


def _arguments(calls):
    """Return the arguments (JSON as text) of a call of the function that was asked for, None where it is none."""
    try:
        (call,) = calls
        return call["function"]["arguments"] if call["function"]["name"] == FUNCTION else None
    except (TypeError, ValueError, KeyError):
        return None


def _checked(text, request):
    """Return (text, None) of a reply in the form that was asked for, text being the bare choice; else ("", why)."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return "", f"the reply is not the JSON that was asked for ({error})"
    if request.choices:
        chosen = value.get("choice") if isinstance(value, dict) else None
        return (chosen, None) if chosen in request.choices else ("", "the reply is not one of the choices")
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    error = best_match(validator_for(request.schema)(request.schema).iter_errors(value))
    return ("", f"the reply breaks the schema at {error.json_path}: {error.message}") if error else (text, None)
