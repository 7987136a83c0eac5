"""How an endpoint wants its requests spelt, found out where it refuses a parameter."""

import copy
import json
import logging
import re

from moult.inference.remote.errors import Problem
from moult.inference.remote.wire import chat_body
from moult.inference.requests import ChatRequest

# The two names that APIs have for the most tokens of an answer.
NAMES = ("max_tokens", "max_completion_tokens")
# What a parameter is where it changes nothing, so that it may be left out; a seed only makes draws repeatable.
NEUTRAL = {"temperature": 1, "top_p": 1}
REMEDIES = {
    "temperature": "write a `temperature` that it takes where it is asked (most such models: 1), or "
    "`reasoning_effort: none` for the endpoint",
    "top_p": "write `top_p: 1` where it is asked",
    "top_k": "write `top_k: 0` where it is asked",
    "reasoning_effort": "write another `reasoning_effort` for the endpoint, or none",
    "top_logprobs": "name a judge that tells log-probabilities, or serve a model of this build",
    "logprobs": "name a judge that tells log-probabilities, or serve a model of this build",
    "response_format": "write `structured: function` for the endpoint",
    "tools": "write `structured: response_format` for the endpoint",
    "tool_choice": "write `structured: response_format` for the endpoint",
}
_REFUSED = re.compile(
    r"unsupported|not.{0,12} support|not.{0,6} (?:allow|permit|accept|taken|recogni[sz]|compatible|valid)|unknown|"
    r"unrecogni[sz]ed|unexpected|extra_forbidden|extra (?:inputs|fields)|no longer|deprecated|cannot both|"
    r"only the default",
    re.IGNORECASE,
)
# Of max_tokens: that so many are too many is the request's fault, not the name's.
_VALUE = re.compile(r"too (?:large|small|long|many)|at most|at least|maximum|exceed|greater|less than|must be|range")
logger = logging.getLogger(__name__)


class Dialect:
    """The spelling of requests to one endpoint: `max_tokens_as`, and the parameters that are left out.

    A setting `max_tokens_as` holds; without one the second name is tried where the first is refused. What is found
    out holds for all requests of the job.
    """

    def __init__(self, settings):
        self.settings, self.name = settings, f"endpoint {settings['name']}"
        named = settings.get("max_tokens_as")
        self.max_tokens_as, self.untried = named or NAMES[0], [] if named else [NAMES[1]]
        self.left_out = set()

    def as_now(self) -> "Dialect":
        """Return a Dialect that stays as this one is now."""
        now = copy.copy(self)
        now.untried, now.left_out = list(self.untried), set(self.left_out)
        return now

    def body(self, request: ChatRequest) -> dict:
        """Return the body of a chat completions call as plain JSON."""
        body = chat_body(request, self.settings | {"max_tokens_as": self.max_tokens_as})
        return {name: value for name, value in body.items() if name not in self.left_out}

    def refused(self, status: int, problem: Problem, body: dict) -> str | None:
        """Return the parameter of a body that an error says is not taken, None where it says nothing of the kind."""
        if status not in (400, 422):
            return None
        told = f"{problem.code or ''} {problem.message}"
        decides = [name for name in (*NAMES, "seed", *REMEDIES) if name in body]
        if NAMES[0] in body and NAMES[1] in told and not _VALUE.search(told):
            named = [NAMES[0]]
        elif problem.param in decides:
            named = [problem.param]
        elif _REFUSED.search(told):
            named = [name for name in decides if re.search(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", told)]
        else:
            return None
        # What is not decisive first: two parameters may be refused beside each other.
        named.sort(key=lambda name: not self._is_neutral(name, body))
        name = next(iter(named), None)
        by_value = name in NAMES and _VALUE.search(told) and not _REFUSED.search(told)
        return None if by_value or (name == "seed" and _VALUE.search(told)) else name

    def _is_neutral(self, name, body):
        return name == "seed" or (name in NEUTRAL and body[name] == NEUTRAL[name])

    def respell(self, name: str, body: dict) -> bool:
        """Whether a request whose parameter was refused can be spelt in another way that means the same; if so,
        further bodies are."""
        if name in NAMES:
            if not self.untried:
                return False
            self.max_tokens_as = self.untried.pop()
            logger.warning("%s: takes no %s; asked with %s instead", self.name, name, self.max_tokens_as)
            return True
        if not self._is_neutral(name, body):
            return False
        self.left_out.add(name)
        logger.warning("%s: takes no %s; asked without it%s", self.name, name, _consequence(name))
        return True

    def is_settled(self, name: str) -> bool:
        """Whether requests are spelt without a parameter by now: another one has found it out."""
        return name in self.left_out or (name in NAMES and name != self.max_tokens_as)

    def remedy(self, name: str, body: dict) -> str | None:
        """Return what to write in the config where a parameter decides the answer, None where none does."""
        if name not in REMEDIES:
            return None
        value = body[name] if name in ("temperature", "top_p", "top_k", "reasoning_effort") else None
        what = f"{name} {json.dumps(value)}" if value is not None else name
        return f"does not take `{what}`, on which its answers depend; {REMEDIES[name]}"


def _consequence(name):
    return ", so that what it draws cannot be drawn again" if name == "seed" else ", which is what it does by itself"
