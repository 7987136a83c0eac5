"""Pictures in a page: their colours, names and ids."""

import html
import re

from moult.base.legible import on_one_line

# A page that shows a picture inline swaps each colour for its own variable of that name (see `inline_svg`).
PALETTE = {
    "card": "#fefefe",
    "ink": "#1f2530",
    "muted": "#6b7280",
    "rule": "#d8dce3",
    "edge": "#8d96a5",
    "first": "#1f66c1",
    "second": "#c2500a",
    "datasets": "#dbeafe",
    "datasets-line": "#5b8fd6",
    "corpora": "#fdf0c9",
    "corpora-line": "#c99a1b",
    "adapters": "#ebe2fc",
    "adapters-line": "#9270d6",
    "models": "#d8f3e3",
    "models-line": "#3fa06c",
    "suites": "#fde2e1",
    "suites-line": "#d46a64",
    "other": "#edeff3",
    "other-line": "#8e98a8",
}


def shorten(name: str, length: int = 28) -> str:
    """Return a name as one legible line, with its middle left out where it is longer than `length`."""
    name = on_one_line(name)
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"


def inline_svg(svg: str, prefix: str, label: str) -> str:
    """Return an SVG file as an element of a page: a name for screen readers, ids of its own, the page's colours."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:xlink)?="[^"]*"', "", svg)
    own = set(re.findall(r'\sid="([^"]+)"', svg))
    svg = re.sub(
        r'(\sid="|href="#|url\(#)([^")]+)',
        lambda found: f"{found[1]}{prefix}-{found[2]}" if found[2] in own else found[0],
        svg,
    )
    for name, colour in PALETTE.items():
        svg = svg.replace(colour, f"var(--{name})")
    # An image has no parts for a screen reader; a picture with links has.
    role = "group" if "<a " in svg else "img"
    return svg.replace("<svg", f'<svg role="{role}" aria-label="{html.escape(on_one_line(label))}"', 1)
