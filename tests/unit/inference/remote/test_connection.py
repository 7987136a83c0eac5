"""Where a request goes, and how much of a reply is taken: by proxies as environments name them, never by a redirect."""

import gzip
import http.server
import socket
import threading
import zlib

import pytest
from moult.base.errors import UserError
from moult.base.outside import TooMuch
from moult.config.load import load
from moult.inference.journal import Journal
from moult.inference.remote.batch import BatchEndpoint
from moult.inference.remote.connection import MAX_REPLY, Body, flaw_of_url, is_loopback, proxy_of
from moult.inference.remote.endpoint import RemoteEndpoint
from moult.inference.requests import ChatRequest, Sampling
from moult.inference.spending import Budget
from moult.planning.start import checked_config
from openai_batches import BatchServer
from openai_server import OpenAIServer, Reply, completion

SECRET = "sk-canary/+0123456789abcdef"
REQUEST = ChatRequest(({"role": "user", "content": "PRIVATE"},), Sampling(max_tokens=8))
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def settings(url, **more):
    plain = {"name": "t", "url": url, "model": "m", "key": None, "concurrency": 2, "timeout": 5, "retries": 0}
    return plain | {"poll": 0.02, "price": None} | more


def ask(url, **more):
    """Return the Answer to one chat request."""
    return dict(pair for part in RemoteEndpoint(settings(url, **more)).answer([REQUEST], [0]) for pair in part)[0]


def ask_batch(url, path, **more):
    with Journal(path) as journal:
        client = BatchEndpoint(settings(url, **more), Budget(), journal, {})
        return dict(pair for part in client.answer([REQUEST], [0]) for pair in part)[0]


# ---- proxies


def test_the_variables_in_their_order():
    https, http = "https://api.example.com/v1", "http://api.example.com/v1"
    assert proxy_of(https, {}) is None and proxy_of(https, {"HTTPS_PROXY": " "}) is None
    assert proxy_of(https, {"HTTPS_PROXY": "http://a:1"}).url == "http://a:1"
    assert proxy_of(https, {"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}).variable == "https_proxy"
    assert proxy_of(https, {"HTTP_PROXY": "http://a:1"}) is None
    assert proxy_of(http, {"HTTP_PROXY": "http://a:1", "ALL_PROXY": "http://b:1"}).url == "http://a:1"
    assert proxy_of(http, {"HTTPS_PROXY": "http://a:1", "all_proxy": "b:3128"}).url == "http://b:3128"


@pytest.mark.parametrize(
    "host, spared",
    [
        ("api.example.com", "*"),
        ("api.example.com", "example.com"),
        ("api.example.com", ".example.com"),
        ("api.example.com", "*.example.com"),
        ("example.com", ".example.com"),
        ("API.Example.COM", "other.org, example.com"),
        ("api.example.com", "other.org example.com."),
        ("api.example.com:8000", "example.com:8000"),
        ("api.example.com", "example.com:443"),
        ("10.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3:8000", "10.1.2.3:8000"),
        ("[2001:db8::1]", "2001:db8::/32"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:8000", "[2001:db8::1]:8000"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("api.example.com", "https://api.example.com"),
    ],
)
def test_hosts_that_no_proxy_names_are_asked_directly(host, spared):
    for variable in ("NO_PROXY", "no_proxy"):
        environ = {"HTTPS_PROXY": "socks5://127.0.0.1:9", variable: spared}
        assert proxy_of(f"https://{host}/v1", environ) is None


@pytest.mark.parametrize(
    "host, spared",
    [
        ("api.example.com", ""),
        ("api.example.com", "ample.com"),
        ("example.com", "api.example.com"),
        ("api.example.com", "example.com:8000"),
        ("example.com.evil.org", "example.com"),
        ("11.1.2.3", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3:8000"),
        ("10.1.2.3", "2001:db8::/32"),
        ("api.example.com", "10.0.0.0/8,,/,:,[,*:"),
        ("10.1.2.30", "10.1.2.3"),
    ],
)
def test_other_hosts_are_not(host, spared):
    assert proxy_of(f"https://{host}/v1", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": spared}).url == "http://p:1"


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "127.9.9.9", "[::1]", "LOCALHOST", "a.localhost", "[::ffff:127.0.0.1]", "localhost."],
)
def test_this_machine_is_never_asked_by_a_proxy(host):
    assert (
        is_loopback(f"http://{host}:8000/v1") and proxy_of(f"http://{host}:8000", {"ALL_PROXY": "http://p:1"}) is None
    )


@pytest.mark.parametrize("host", ["localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "0.0.0.0", "node7"])
def test_other_machines_are_no_loopback(host):
    assert not is_loopback(f"http://{host}/v1")


@pytest.mark.parametrize(
    "value, told",
    [
        ("socks5://127.0.0.1:9", "SOCKS proxy, for which the package socksio is missing; `pip install socksio`"),
        ("socks5h://user:pw@127.0.0.1:9", "SOCKS proxy"),
        ("socks4://127.0.0.1:9", "of the kind socks4://, which is none of http, https, socks5, socks5h"),
        ("http://", "holds no URL of a proxy"),
        ("http://p:port", "holds no URL of a proxy"),
        ("http://[p", "holds no URL of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_sentence_before_anything_is_planned(monkeypatch, value, told):
    raw = {
        "name": "x",
        "datasets": [
            {"name": "q", "format": "stackoverflow", "files": {"train": {"url": "https://h/q", "sha256": "0" * 64}}}
        ],
        "endpoints": [{"name": "t", "url": "https://api.example.com/v1", "model": "m"}],
        "corpora": [{"name": "d", "kind": "distilled", "dataset": "q", "endpoint": "t"}],
    }
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(
        UserError, match="endpoints 't' .*variable HTTPS_PROXY .*add api.example.com to NO_PROXY"
    ) as caught:
        checked_config(raw, "c.yaml", print, speaks=False)
    assert told in str(caught.value) and "pw@" not in str(caught.value)
    with pytest.raises(UserError, match="endpoint t .*variable HTTPS_PROXY"):
        ask("https://api.example.com/v1")
    monkeypatch.setenv("NO_PROXY", "example.com")
    checked_config(raw, "c.yaml", print, speaks=False)


def test_a_proxy_of_the_environment_is_asked_and_named_where_it_fails(monkeypatch):
    seen = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_error(407)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("MY_KEY", SECRET)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.server_address[1]}")
        with pytest.raises(UserError, match="cannot be reached by the proxy of HTTPS_PROXY .*407"):
            ask("https://api.example.invalid/v1", key="MY_KEY")
        proxy.shutdown()
    # A tunnel is asked for, and the key is not for the proxy.
    assert set(seen) == {("api.example.invalid:443", None)}


def test_a_key_is_shown_to_no_proxy(monkeypatch):
    environ = {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"}
    assert proxy_of("https://h/v1", environ, keyed=True) and proxy_of("http://h/v1", environ)
    with pytest.raises(UserError, match="HTTP_PROXY names a proxy, which could read the key .*add h to NO_PROXY"):
        proxy_of("http://h/v1", environ, keyed=True)
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    monkeypatch.setenv("MY_KEY", SECRET)
    with pytest.raises(UserError, match="endpoint t .http://node7/v1.: .*ALL_PROXY .* could read the key"):
        ask("http://node7/v1", key="MY_KEY")


# ---- redirects, and where a key goes


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(monkeypatch, tmp_path, status):
    monkeypatch.setenv("MY_KEY", SECRET)
    with OpenAIServer() as other, BatchServer() as first:
        calls = []
        away = Reply(b"", status, {"location": f"{other.url}/chat/completions"})
        other.routes = {".*": lambda call: calls.append(call) or Reply({})}
        first.routes = {".*": lambda call: away}
        with pytest.raises(UserError, match=f"refused .{status}.: a redirect, which is not followed"):
            ask(first.url, key="MY_KEY")
        with pytest.raises(UserError, match="a redirect, which is not followed"):
            ask_batch(first.url, tmp_path / "j", key="MY_KEY")
    assert calls == []


def test_a_redirect_of_an_output_file_is_not_followed_either(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    with OpenAIServer() as other, BatchServer(lambda body: "fine") as first:
        calls = []
        other.routes = {".*": lambda call: calls.append(call) or Reply({})}
        first.instead = {"content": [Reply(b"", 302, {"location": other.url})]}
        with pytest.raises(UserError, match="a redirect, .* nothing is lost"):
            ask_batch(first.url, tmp_path / "j", key="MY_KEY")
        assert ask_batch(first.url, tmp_path / "j", key="MY_KEY").text == "fine" and calls == []


@pytest.mark.parametrize(
    "url",
    ["https://h/v1?api_key=abc", "https://h/v1?key=abc", "https://h/v1?sig=abc", "https://h/v1?x=" + "a1b2" * 6]
    + ["https://h/v1?access_token=", "https://user@h/v1", "https://user:pw@h/v1", "https:///v1", "https://h:99999/v1"]
    + ["https://h/v1#x", "https://h /v1", "https://h/v1?subscription-key=a", "https://h\u202e/v1"],
)
def test_urls_with_a_secret_or_without_a_host_are_refused(url):
    flaw = flaw_of_url(url)
    assert flaw and "abc" not in flaw and "pw" not in flaw.replace("password", "")


def test_a_query_without_a_secret_goes_with_every_request(tmp_path):
    asked = []
    assert flaw_of_url("https://h/openai/v1?api-version=2026-01-01-preview") is None
    with OpenAIServer() as server:
        serve = server._answer
        server._answer = lambda call: asked.append(call.path) or serve(call)
        assert ask(f"{server.url}/?api-version=1").text
    assert asked == ["/v1/chat/completions"]


def endpoint(**fields):
    return {"name": "x", "endpoints": [{"name": "t", "model": "m", "key": "MY_KEY"} | fields]}


def test_a_key_goes_over_http_to_this_machine_only_unless_the_config_says_so():
    for url in ("https://api.example.com/v1", "http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:80/v1"):
        load(endpoint(url=url))
    load(endpoint(url="http://node7:8000/v1", insecure=True))
    load(endpoint(url="http://node7:8000/v1", key=None))
    for url in ("http://node7:8000/v1", "http://10.0.0.7/v1", "http://localhost.example.com/v1"):
        with pytest.raises(UserError, match="entry 1 .t.: url: a key sent over http.*`insecure: true`"):
            load(endpoint(url=url))


# ---- how much of a reply is taken


def packed(data, times=1):
    for _ in range(times):
        data = gzip.compress(data)
    return data


def unpacked(encoding, data, step=1000, limit=MAX_REPLY):
    parts = []
    body = Body(encoding, parts.append, limit)
    for start in range(0, len(data), step):
        body.add(data[start : start + step])
    return b"".join(parts)


def test_bodies_are_unpacked_within_bounds():
    data = b"some text " * 5000
    assert unpacked("", data) == unpacked("gzip", packed(data)) == unpacked("deflate", zlib.compress(data)) == data
    for encoding, sent in (
        ("", b"x" * 2000),
        ("gzip", packed(b"x" * 1_000_000)),
        ("deflate", zlib.compress(b"x" * 1001)),
    ):
        with pytest.raises(TooMuch):
            unpacked(encoding, sent, limit=1000)
    for encoding, sent in (("gzip", b"no gzip at all"), ("br", b""), ("gzip, gzip", packed(data, 2)), ("zstd", b"")):
        with pytest.raises(ValueError):
            unpacked(encoding, sent)


@pytest.mark.parametrize("kind", ["plain", "gzip", "gzip of gzip"])
def test_a_reply_that_is_too_large_is_a_reject_that_is_charged(kind):
    data = b" " * (MAX_REPLY + 1)
    encoding = {"plain": "identity", "gzip": "gzip", "gzip of gzip": "gzip, gzip"}[kind]
    body = data if kind == "plain" else packed(data, kind.count("gzip"))
    with OpenAIServer(lambda asked: Reply(body, headers={"Content-Encoding": encoding})) as server:
        answer = ask(server.url)
    told = "the reply is packed by 'gzip, gzip'" if kind == "gzip of gzip" else "the reply is of more than 16 MB"
    assert answer.error == told and answer.assumed and answer.completion_tokens == 8


def test_a_small_gzip_that_nobody_asked_for_is_read():
    def reply(body):
        data = gzip.compress(str(completion(body, "fine")).replace("'", '"').encode())
        return Reply(data, headers={"Content-Encoding": "gzip"})

    with OpenAIServer(reply) as server:
        assert ask(server.url).text == "fine"


def test_lines_of_a_batch_that_are_too_long_are_skipped(tmp_path):
    with BatchServer(lambda body: "fine") as server:
        server.endings = [{"mangle": lambda lines: ["x" * (2 * MAX_REPLY + 5), *lines]}]
        assert ask_batch(server.url, tmp_path / "j").text == "fine"


def test_a_server_that_says_nothing_or_nonsense_is_lived_with():
    """Each connection gets other bytes; none of them is HTTP."""
    for sent in (
        b"",
        b"\x00" * 100,
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def talk(server=server, sent=sent):
                try:
                    while True:
                        peer, _ = server.accept()
                        peer.recv(65536)
                        peer.sendall(sent)
                        peer.close()
                except OSError:
                    pass

            threading.Thread(target=talk, daemon=True).start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
            try:
                assert ask(url, timeout=1).error
            except UserError as error:
                assert "cannot be reached" in str(error)
