"""What servers say when something went wrong, in the many forms in which they say it."""

import re
from dataclasses import dataclass

from moult.base.outside import one_line

# Codes of an account that has no money left, whatever the status they come with.
NO_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance"}
NO_QUOTA |= {"insufficient_credits", "insufficient_funds", "payment_required", "credits_exhausted"}
# Where an error within a reply of status 200 has no number: the status that its words mean. Those that pass are first.
WORDS = (
    (429, r"rate.?limit|too.?many.?requests|resource.?exhausted|throttl|concurrency.?limit|slow.?down"),
    (503, r"overload|unavailable|capacity|busy|timed?.?out|deadline|internal|server.?error|upstream|bad.?gateway"),
    (401, r"(?:invalid|incorrect).?api.?key|unauthori[sz]ed|un.?authenticated|not.?authenticated|authentication"),
    (403, r"permission|(?<!extra.)forbidden|access.?denied"),
    (404, r"not.?found|does.?not.?exist|no.?such.?model"),
    (400, r"invalid|extra.?(?:forbidden|inputs)|bad.?request|unsupported|context.?length|unprocessable"),
    (400, r"content.?filter|moderation|policy|safety|flagged"),
)
PASSING = {429, 503}
# The status that an error within a 200 is taken for when nothing says what it is: another try may mend it.
UNKNOWN = 500
MAX_LOOKED_INTO = 4


@dataclass(frozen=True)
class Problem:
    """An error as a server sent it. `status`: what it says of itself, None where it does not. `code`: a word or None.
    `param`: the parameter that is at fault, as far as it is named. `wait`: seconds until another try, 0 for unknown."""

    status: int | None
    code: str | None
    message: str
    param: str | None = None
    wait: float = 0.0

    @property
    def no_quota(self) -> bool:
        return self.status == 402 or self.code in NO_QUOTA

    @property
    def meant(self) -> int:
        """The status that an error within a reply of status 200 would have had."""
        if self.status:
            return self.status
        if self.code in NO_QUOTA:
            return 402
        code, told = self.code or "", self.message
        # A code says more than a message, but for one that is everybody's for all that was asked wrongly.
        looked = [(code, {*PASSING, 401, 403, 404}), (told, {401}), (code, {400}), (told, {*PASSING, 403, 404, 400})]
        for words, statuses in looked:
            for status, pattern in WORDS:
                if status in statuses and re.search(pattern, words, re.IGNORECASE):
                    return status
        return UNKNOWN


def problem_in(reply: object) -> Problem | None:
    """Return the error that a reply (any JSON) of status 200 holds in place of an answer, None where it holds none."""
    if isinstance(reply, list) and len(reply) == 1:
        reply = reply[0]
    if not isinstance(reply, dict):
        return None
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and choice.get("error"):
        return problem_of(choice)
    if reply.get("error") or reply.get("errors") or reply.get("object") == "error" or reply.get("type") == "error":
        return problem_of(reply)
    said = ("detail", "message", "msg", "error_msg", "error_message", "errorMessage", "error_code", "fault")
    return problem_of(reply) if "choices" not in reply and any(reply.get(name) for name in said) else None


def problem_of(reply: object) -> Problem:
    """Return what an error reply (any JSON or text) says."""
    layers = list(_layers(reply))
    objects = [layer for layer in layers if isinstance(layer, dict)]
    codes = [layer.get(name) for layer in objects[::-1] for name in ("code", "error_code", "type", "status")]
    # A code is a word at OpenAI; where it is but the status again, the type says more.
    words = [code for code in codes if isinstance(code, str) and not code.strip().isdigit() and code != "error"]
    code = next((word for word in words if word in NO_QUOTA), next(iter(words), None))
    if code is None and any(layer.get("type") == "error" for layer in objects):
        code = "error"
    numbers = ("code", "status", "status_code", "statusCode", "http_status", "error_code", "httpStatusCode")
    found = (_status(layer.get(name)) for layer in objects[::-1] for name in numbers)
    status = next(filter(None, found), None)
    message = next((words for layer in layers[::-1] if (words := _message(layer))), "")
    param = next((layer["param"] for layer in objects[::-1] if isinstance(layer.get("param"), str)), None)
    return Problem(status, code and one_line(code, 100), message, param and one_line(param, 100), _wait_in(objects))


def _layers(reply):
    """Yield a reply and, one within the other, the error objects or words in it, the outermost first."""
    layer = reply
    for _ in range(MAX_LOOKED_INTO):
        if isinstance(layer, list) and layer:
            layer = layer[0]
        yield layer
        if not isinstance(layer, dict):
            return
        inner = next((layer[name] for name in ("error", "errors", "detail", "fault") if layer.get(name)), None)
        inner = layer.get("message") if inner is None and isinstance(layer.get("message"), dict | list) else inner
        if inner is None:
            return
        layer = inner


def _message(layer):
    if not isinstance(layer, dict):
        return "" if layer is None else one_line(layer)
    names = ("message", "msg", "detail", "error_msg", "error_message", "errorMessage", "title", "reason")
    said = next((layer[name] for name in names if isinstance(layer.get(name), str) and layer[name]), None)
    if said is None:
        said = next((layer[name] for name in names if layer.get(name)), "")
    # The words of a provider behind the one that was asked, as OpenRouter hands them on; a place, as FastAPI does.
    metadata, place = layer.get("metadata"), layer.get("loc")
    behind = metadata.get("raw") if isinstance(metadata, dict) else None
    said = f"{said} at {'.'.join(map(str, place))}" if isinstance(place, list) else said
    return one_line(f"{said}: {behind}" if behind else said)


def _status(code):
    if isinstance(code, str) and len(code) < 10:
        code = int(code) if code.strip().isdecimal() else None
    return code if type(code) is int and 400 <= code <= 599 else None


def _wait_in(objects):
    """Return the seconds that error objects ask to wait, 0 where they do not say."""
    for place in objects:
        metadata = place.get("metadata")
        details = place.get("details")
        holders = [place, metadata, *(details[:10] if isinstance(details, list) else ())]
        holders.append(metadata.get("headers") if isinstance(metadata, dict) else None)
        for holder in holders:
            for name, value in list(holder.items())[:50] if isinstance(holder, dict) else ():
                key = re.sub("[^a-z]", "", str(name).lower())
                if key in ("retryafter", "retryafterseconds", "retrydelay", "retryafterms") and (
                    found := re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*s?\s*", str(value)[:40])
                ):
                    return float(found[1]) / (1000 if key.endswith("ms") else 1)
    return 0.0
