"""A small server that speaks OpenAI's chat completions over HTTP on loopback, counts what it is asked and paid for,
and misbehaves as it is told. `python tests/openai_server.py --delay 0.05` runs one as a process of its own."""

import argparse
import asyncio
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit


@dataclass
class Call:
    """One HTTP request as it came in."""

    method: str
    path: str
    headers: dict
    body: bytes
    groups: tuple = ()


@dataclass
class Reply:
    """What goes back: JSON (or bytes as they are) after `delay` s more; `drip` s between bytes; or the connection
    is reset."""

    body: dict | bytes = b""
    status: int = 200
    headers: dict = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    reset: bool = False


def answer_in_form(body):
    """Answer with some text, or with JSON by the schema that is asked for; the same question gets the same answer."""
    text = f"answer to {body['messages'][-1]['content'][-40:]}"
    form = body.get("response_format")
    return json.dumps(filled(form["json_schema"]["schema"], random.Random(str(body)))) if form else text


def filled(schema, chance):
    """Return a value that a JSON schema allows, drawn by `chance`."""
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if schema["type"] == "object":
        return {name: filled(part, chance) for name, part in schema["properties"].items()}
    return {"string": "some words", "integer": 1, "boolean": True, "array": []}[schema["type"]]


class OpenAIServer:
    """Answers every chat with `reply(body)`: text, (status, error body), or a whole Reply.

    `asked` are the bodies of all chat requests, with their time in `times`; `paid` those that were answered with 200.
    `routes` maps "METHOD /path" (a regular expression for all of it) to a function from a Call to a Reply, which runs
    in the server's loop and must not wait: add your own. As a proxy, it answers in the place of any host.
    """

    def __init__(self, reply=None, delay=0.0, port=0):
        self.reply, self.delay = reply or answer_in_form, delay
        self.asked, self.times, self.paid = [], [], []
        self.routes = {"POST /v1/chat/completions": self.chat}
        self.socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"
        self.loop = asyncio.new_event_loop()

    def chat(self, call):
        body = json.loads(call.body)
        self.times.append(time.monotonic())
        self.asked.append(body)
        answer = self.reply(body)
        if isinstance(answer, str):
            answer = Reply(completion(body, answer))
        elif isinstance(answer, tuple):
            answer = Reply(answer[1], answer[0])
        answer = replace(answer, delay=answer.delay + self.delay)
        if answer.status == 200 and not answer.reset:
            self.paid.append(body)
        return answer

    def paid_twice(self):
        """Return how many answers were given to a request that had one already."""
        return sum(n - 1 for n in Counter(json.dumps(body["messages"]) for body in self.paid).values())

    def __enter__(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.socket.close()

    def run(self):
        """Serve until the loop is stopped."""
        try:
            self.started = self.loop.create_task(asyncio.start_server(self._serve, sock=self.socket, backlog=1024))
            self.loop.run_forever()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
                self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            self.loop.close()

    async def _serve(self, reader, writer):
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = lines[0].split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._send(writer, self._answer(Call(method, urlsplit(path).path, headers, body)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away, or was killed: that is what some tests are about
        finally:
            writer.close()

    def _answer(self, call):
        for pattern, handler in self.routes.items():
            if match := re.fullmatch(pattern, f"{call.method} {call.path}"):
                call.groups = match.groups()
                return handler(call)
        return Reply({"error": {"message": f"no route for {call.method} {call.path}"}}, 404)

    async def _send(self, writer, reply):
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.reset:
            # Lingering for no time is what makes the kernel reset the connection rather than close it.
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
            raise ConnectionResetError
        data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": len(data)} | reply.headers
        head = f"HTTP/1.1 {reply.status} Said\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = head.encode() + b"\r\n"
        if reply.drip:
            writer.write(head)
            for place in range(len(data)):
                writer.write(data[place : place + 1])
                await asyncio.sleep(reply.drip)
        else:
            writer.write(head + data)
        await writer.drain()


def completion(body, text, finish_reason="stop", **message):
    """Return a chat completion as OpenAI writes it; `message` adds to or replaces fields of the message."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text} | message,
            }
        ],
        "usage": counted_tokens(body, str(text or "")),
    }


def counted_tokens(body, text):
    """Count words as tokens."""
    asked, said = len(str(body["messages"]).split()), len(text.split())
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def error(status, message, code=None, **headers):
    """Return an error as OpenAI writes it; an underscore in a header's name is a hyphen."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "code": code}}, status, headers)


MISBEHAVIOURS = {
    "429": lambda body: error(429, "slow down", "rate_limit_exceeded", retry_after_ms=20),
    "500": lambda body: error(500, "the server had an error"),
    "timeout": lambda body: Reply(completion(body, "too late"), delay=3600),
    "drip": lambda body: Reply(completion(body, "slow " * 50), drip=0.2),
    "reset": lambda body: Reply(reset=True),
    "cut": lambda body: Reply(completion(body, '{"choice": "ye')),
    "length": lambda body: Reply(completion(body, "an answer that goes on", "length")),
    "refusal": lambda body: Reply(completion(body, None, refusal="I will not say that.")),
    "filtered": lambda body: Reply(completion(body, "", "content_filter")),
    "tools": lambda body: Reply(completion(body, None, "tool_calls", tool_calls=[{"id": "1", "type": "function"}])),
    "parts": lambda body: Reply(completion(body, [{"type": "text", "text": "a part"}])),
    "no choices": lambda body: Reply(completion(body, "") | {"choices": []}),
    "empty": lambda body: Reply(completion(body, "")),
    "html": lambda body: Reply(b"<html><body>Please log in</body></html>", headers={"Content-Type": "text/html"}),
    "half": lambda body: Reply(json.dumps(completion(body, "half of it")).encode()[:60]),
    "400": lambda body: error(400, "too many tokens", "context_length_exceeded"),
    "401": lambda body: error(401, "Incorrect API key provided", "invalid_api_key"),
    "quota": lambda body: error(429, "You exceeded your current quota", "insufficient_quota"),
}


def misbehaving(seed, odds, good=lambda body: "a good answer"):
    """Return a `reply` that misbehaves with the given probabilities, e.g. {"500": 0.2}, by a seeded generator.

    What goes wrong depends on the request and on how often it was asked, not on the order of requests.
    """
    tries = Counter()

    def reply(body):
        text = json.dumps(body["messages"])
        tries[text] += 1
        chance = random.Random(f"{seed} {tries[text]} {text}").random()
        for kind, odd in odds.items():
            chance -= odd
            if chance < 0:
                return MISBEHAVIOURS[kind](body)
        return good(body)

    return reply


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = OpenAIServer(lambda body: "An answer of some length. " * 20, options.delay, options.port)
    print(server.url, flush=True)
    server.run()
