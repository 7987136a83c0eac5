"""Remote endpoints: OpenAI-compatible APIs that answer chat requests."""

import json

from moult.chat import Answer
from moult.errors import UserError


class RemoteEndpoint:
    """An OpenAI-compatible API; `concurrency` requests are in flight at a time."""

    def __init__(self, settings):
        self.settings = settings

    def answer(self, requests, missing):
        """Yield lists of (index, Answer) as they arrive. A wrong key or an unreachable server is a UserError."""
        import asyncio

        client = self._client()
        waiting, pending = list(missing)[::-1], {}

        async def step():
            while waiting and len(pending) < self.settings["concurrency"]:
                index = waiting.pop()
                pending[asyncio.create_task(self._ask(client, requests[index]))] = index
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            return [(pending.pop(task), task.result()) for task in done]

        async def close():
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, client.close(), return_exceptions=True)

        with asyncio.Runner() as runner:
            try:
                while waiting or pending:
                    yield runner.run(step())
            finally:
                runner.run(close())

    def _client(self):
        import os

        import openai

        variable = self.settings["key"]
        if variable and not os.environ.get(variable):
            raise UserError(
                f"endpoint {self.settings['name']}: the variable {variable} is not set; export it and run again."
            )
        return openai.AsyncOpenAI(
            base_url=self.settings["url"],
            api_key=os.environ[variable] if variable else "none",
            max_retries=self.settings["retries"],
            timeout=self.settings["timeout"],
        )

    async def _ask(self, client, request):
        import openai

        name = f"endpoint {self.settings['name']} ({self.settings['url']})"
        kept = "what was answered is in the journal, the next run continues"
        try:
            reply = await client.chat.completions.create(model=self.settings["model"], **_openai_request(request))
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            raise UserError(f"{name}: refused ({error.status_code}); check key, url and model; {kept}.") from None
        except openai.RateLimitError as error:
            if error.code == "insufficient_quota":
                raise UserError(f"{name}: the account has no quota left; {kept}.") from None
            return Answer("", "error", error=f"HTTP {error.status_code} after {self.settings['retries']} retries")
        except openai.APITimeoutError:
            return Answer("", "error", error=f"no answer within {self.settings['timeout']} s")
        except openai.APIConnectionError as error:
            raise UserError(f"{name}: cannot be reached ({error.__cause__ or error}); {kept}.") from None
        except openai.APIStatusError as error:
            return Answer("", "error", error=f"HTTP {error.status_code}: {error.message}"[:300])
        return _answer_of(reply, request)


def _openai_request(request):
    """Return the request as keyword arguments of the chat completions call."""
    sampling = request.sampling
    arguments = {
        "messages": list(request.messages),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    if sampling.top_k:
        arguments["extra_body"] = {"top_k": sampling.top_k}
    schema = request.schema
    if request.choices:
        enum = {"type": "string", "enum": list(request.choices)}
        schema = {
            "type": "object",
            "properties": {"choice": enum},
            "required": ["choice"],
            "additionalProperties": False,
        }
    if schema:
        arguments["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return arguments


def _answer_of(reply, request):
    if not reply.choices:
        return Answer("", "error", error="the reply has no choices")
    choice, usage = reply.choices[0], reply.usage
    text = (choice.message.content or "").strip()
    counts = {
        "prompt_tokens": usage.prompt_tokens if usage else 0,
        "completion_tokens": usage.completion_tokens if usage else 0,
    }
    if getattr(choice.message, "refusal", None):
        return Answer("", "error", error=f"refused: {choice.message.refusal}"[:300], **counts)
    if request.choices and choice.finish_reason != "length":
        try:
            text = json.loads(text)["choice"]
        except (ValueError, KeyError, TypeError):
            return Answer("", "error", error="the reply is not one of the choices", **counts)
    return Answer(text, "length" if choice.finish_reason == "length" else "stop", **counts)
