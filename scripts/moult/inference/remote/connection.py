"""How an endpoint is reached: by which proxy, never by a redirect, and with bounded bytes."""

import importlib.util
import ipaddress
import os
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from moult.base.errors import UserError
from moult.base.outside import TooMuch, Unreadable

# Bytes of a reply, unpacked. The longest answer of today, each letter escaped, is a third of it.
MAX_REPLY = 16_000_000
PORTS = {"http": 80, "https": 443}
_SECRET = re.compile(r"key|token|secret|passw|pwd|auth|credential|^(?:sig|signature|code|k)$", re.IGNORECASE)
SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """A proxy and the name of the environment variable that says so."""

    url: str
    variable: str


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    address = _address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback if address else host == "localhost" or host.endswith(".localhost")


def flaw_of_url(url: str) -> str | None:
    """Return why a base URL cannot be one, None where it can: it has a host, and nothing secret in it.

    A query goes with every request (`?api-version=2026-01-01`), but stands in manifests and in the report.
    """
    try:
        parts = urlsplit(url)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or any(letter.isspace() or not letter.isprintable() for letter in url):
        return "is no address; write it like https://api.example.com/v1"
    if parts.username is not None or parts.password is not None:
        return "has a user or a password in it (not shown); write `key: MY_VARIABLE` and export MY_VARIABLE"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if _SECRET.search(name) or (len(value) >= 20 and re.fullmatch(r"[\w.~+/=-]*\d[\w.~+/=-]*", value)):
            return "has a key in its query (not shown); write `key: MY_VARIABLE` and export MY_VARIABLE"
    return "has a fragment (#...), which no server sees; write it without" if parts.fragment else None


def proxy_of(url: str, environ: Mapping[str, str] = os.environ, keyed: bool = False) -> Proxy | None:
    """Return the proxy that the environment names for a URL, as curl reads it; None where the host is asked directly.

    `https_proxy` or `http_proxy`, by the URL's scheme, then `all_proxy`; lower case before upper case. This machine
    itself is never asked by a proxy, nor is a host that `no_proxy` names (see `_is_spared`). keyed: whether a key is
    sent, which a proxy can read where it is not asked for a tunnel.

    Raises:
        UserError: the variable holds no URL of a proxy that can be used here; it names the variable and the remedy.
    """
    scheme = urlsplit(url).scheme
    names = [form for name in (f"{scheme}_proxy", "all_proxy") for form in (name, name.upper())]
    variable = next((name for name in names if environ.get(name, "").strip()), None)
    spared = next((environ[name] for name in ("no_proxy", "NO_PROXY") if environ.get(name, "").strip()), "")
    if variable is None or is_loopback(url) or _is_spared(url, spared):
        return None
    host = urlsplit(url).hostname
    value = environ[variable].strip()
    value = value if "://" in value else f"http://{value}"
    remedy = f"correct it, unset it, or add {host} to NO_PROXY"
    try:
        parts = urlsplit(value)
        known = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise UserError(f"the environment variable {variable} holds no URL of a proxy; {remedy}")
    if parts.scheme.lower() not in SCHEMES:
        raise UserError(
            f"the environment variable {variable} names a proxy of the kind {parts.scheme}://, which is none of "
            f"{', '.join(SCHEMES)}; {remedy}"
        )
    if parts.scheme.lower().startswith("socks") and not importlib.util.find_spec("socksio"):
        raise UserError(
            f"the environment variable {variable} names a SOCKS proxy, for which the package socksio is missing; "
            f"`pip install socksio` into the environment of the build, or {remedy}"
        )
    if keyed and scheme == "http":
        raise UserError(
            f"the environment variable {variable} names a proxy, which could read the key on its way to {host} over "
            f"http://; write https://, unset the variable, or add {host} to NO_PROXY"
        )
    return Proxy(value, variable)


def _is_spared(url, spared):
    """Whether a list of hosts that are asked directly has the host of a URL: `*`, a domain with or without a dot or
    `*.` before it (its subdomains too), an address, a network such as 10.0.0.0/8, each also with `:port`."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or PORTS.get(parts.scheme)
    address = _address(host)
    for entry in re.split(r"[\s,]+", spared.lower()):
        entry = urlsplit(entry).netloc if "://" in entry else entry
        if entry == "*":
            return True
        bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?", entry)
        named = bracketed or (re.fullmatch(r"([^:]*)(?::(\d+))?", entry) if entry.count(":") < 2 else None)
        name, wanted = (named[1], named[2]) if named else (entry, None)
        if not name or (wanted and int(wanted) != port):
            continue
        if address:
            try:
                network = ipaddress.ip_network(name, strict=False)
            except ValueError:
                continue
            if address in network:
                return True
        else:
            domain = name.removeprefix("*").strip(".")
            if domain and (host == domain or host.endswith(f".{domain}")):
                return True
    return False


def _address(host):
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def client_options(settings: Mapping) -> tuple[dict, Proxy | None]:
    """Return what clients of both kinds are made with, and the proxy that they go by.

    No variable of the environment but those of `proxy_of` decides where a request goes, and no redirect is followed: a
    key is sent to the host that the config names. settings: `name`, `url`, `key`.

    Raises:
        UserError: see `proxy_of`.
    """
    import httpx2

    proxy = None
    try:
        proxy = proxy_of(settings["url"], keyed=bool(settings["key"]))
        if proxy:
            httpx2.Proxy(proxy.url)
    except UserError as error:
        raise UserError(f"endpoint {settings['name']} ({settings['url']}): {error}.") from None
    except (ValueError, httpx2.InvalidURL):
        variable = proxy.variable if proxy else "of the proxy"
        raise UserError(f"the environment variable {variable} holds no URL of a proxy; correct it.") from None
    options = {"proxy": proxy.url if proxy else None, "trust_env": False, "follow_redirects": False}
    options["verify"] = httpx2.create_ssl_context()  # with the certificates that SSL_CERT_FILE names, if it is set
    return options | {"headers": {"Accept-Encoding": "identity"}}, proxy


def bearer(key: str | None) -> dict:
    """Return the header that a key is sent in, none without a key."""
    return {"Authorization": f"Bearer {key}"} if key else {}


class Body:
    """The bytes of a reply, unpacked as they come and never more than `limit`; `write` takes them.

    Raises:
        TooMuch: by `add`.
        Unreadable: the bytes are packed in a way that nobody asked for, or damaged.
    """

    def __init__(self, encoding: str, write: Callable[[bytes], Any], limit: int = MAX_REPLY) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Unreadable(f"packed by {encoding[:40]!r}")
        # 32: gzip or zlib, as the bytes themselves say.
        self.unpacker = None if encoding in ("", "identity") else zlib.decompressobj(32 + zlib.MAX_WBITS)
        self.write, self.limit, self.size = write, limit, 0

    def add(self, packed: bytes) -> None:
        """Unpack and write some more bytes."""
        try:
            data = self.unpacker.decompress(packed, self.limit - self.size + 1) if self.unpacker else packed
        except zlib.error as error:
            raise Unreadable(f"damaged ({error})") from None
        self.size += len(data)
        if self.size > self.limit:
            raise TooMuch(f"of more than {self.limit // 1_000_000} MB")
        self.write(data)
