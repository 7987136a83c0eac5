"""Graphs as SVG: lineage, and the rule graph of the README."""

import html
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from moult.base.legible import legible
from moult.report.svg import PALETTE, shorten

SHAPES = {
    "datasets": "M0,5 a{rx},5 0 0 1 {w},0 V{low} a{rx},5 0 0 1 -{w},0 Z M{w},5 a{rx},5 0 0 1 -{w},0",
    "corpora": "M4,0 H{fold} L{w},12 V{h4} q0,4 -4,4 H4 q-4,0 -4,-4 V4 q0,-4 4,-4 Z M{fold},0 V12 H{w}",
    "adapters": "M9,0 H{notch} L{w},{h2} L{notch},{h} H9 L0,{h2} Z",
    "models": "M8,0 H{w8} q8,0 8,8 V{h8} q0,8 -8,8 H8 q-8,0 -8,-8 V8 q0,-8 8,-8 Z",
    "suites": "M{h2},0 H{w_round} a{h2},{h2} 0 0 1 0,{h} H{h2} a{h2},{h2} 0 0 1 0,-{h} Z",
    "other": "M4,0 H{w4} q4,0 4,4 V{h4} q0,4 -4,4 H4 q-4,0 -4,-4 V4 q0,-4 4,-4 Z",
}
# What a rule makes is told by the last word of its name.
RULE_KINDS = {
    "dataset": "datasets",
    "leakage": "datasets",
    "guidelines": "corpora",
    "answers": "corpora",
    "lora": "adapters",
    "full": "models",
    "adapter": "models",
    "model": "models",
    "models": "models",
    "labels": "suites",
    "questions": "suites",
    "judgements": "suites",
}


def draw_graph(
    nodes: Mapping[str, Mapping[str, str]],
    edges: Iterable[tuple[str, str]],
    dashed: Sequence[tuple[str, str]] = (),
    direction: str = "LR",
) -> str:
    """Return a graph as SVG: graphviz places nodes and edges, the shapes are drawn here, so that fonts move nothing.

    nodes: key → {label, detail, kind (of SHAPES), href, title}; all but the label may be missing.
    edges: (key, key) pairs; one that a longer path implies is not drawn. dashed: pairs that are always drawn.
    """
    import pygraphviz

    graph = pygraphviz.AGraph(directed=True, rankdir=direction, ranksep=0.42, nodesep=0.2)
    sizes = {}
    for key, node in nodes.items():
        texts = [len(shorten(node["label"])) * 7.6, len(shorten(node.get("detail", ""), 34)) * 6]
        sizes[key] = max(64, max(texts) + 30), 48 if node.get("detail") else 36
        inches = [f"{size / 72:.4f}" for size in sizes[key]]
        graph.add_node(key, label="", shape="box", fixedsize="true", width=inches[0], height=inches[1])
    graph.add_edges_from(edges, arrowhead="none")
    graph.tred()
    graph.add_edges_from(dashed, arrowhead="none", style="dashed")
    graph.layout(prog="dot")
    _, _, width, height = map(float, graph.graph_attr["bb"].split(","))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width + 16:.0f}" '
        f'height="{height + 16:.0f}" viewBox="-8 -8 {width + 16:.0f} {height + 16:.0f}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0.8 L7,4 L0,7.2 Z" fill="{PALETTE["edge"]}"/></marker>',
    ]
    for edge in sorted(graph.edges()):
        points = [tuple(map(float, point.split(","))) for point in edge.attr["pos"].split()]
        first, *rest = (f"{x:.0f},{height - y:.0f}" for x, y in points)
        path = f"M{first} C{' '.join(rest)}"
        dashes = ' stroke-dasharray="4 3" opacity="0.75"' if edge in set(dashed) else ""
        parts.append(f'<path d="{path}" fill="none" stroke="{PALETTE["edge"]}"{dashes} marker-end="url(#arrow)"/>')
    for key, node in nodes.items():
        x, y = map(float, graph.get_node(key).attr["pos"].split(","))
        parts.append(_node(node, x, height - y, *sizes[key]))
    return legible("\n".join([*parts, "</svg>\n"]))


def _node(node, x, y, width, height):
    """Return one node, drawn around its centre."""
    kind, detail = node.get("kind", "other"), shorten(node.get("detail", ""), 34)
    label, title = html.escape(shorten(node["label"])), html.escape(node.get("title", node["label"]))
    # A cylinder's lid takes room from its text.
    line = (-2 if detail else 5) + 4 * (kind == "datasets")
    texts = f'<text y="{line}" font-size="13" font-weight="600">{label}</text>'
    if detail:
        texts += f'<text y="{line + 15}" font-size="10.5" opacity="0.8">{html.escape(detail)}</text>'
    drawn = (
        f'<g transform="translate({x:.0f},{y:.0f})" text-anchor="middle" fill="{PALETTE["ink"]}">'
        f"<title>{title}</title>{_shape(kind, x=-width / 2, y=-height / 2, w=width, h=height)}{texts}</g>"
    )
    return f'<a xlink:href="{html.escape(node["href"])}">{drawn}</a>' if "href" in node else drawn


def _shape(kind, x, y, w, h):
    """Return the outline of a kind of node as a path element with its upper left corner at (x, y)."""
    sizes = {"w4": w - 4, "w8": w - 8, "h4": h - 4, "h8": h - 8, "h2": h / 2, "rx": w / 2, "low": h - 5}
    sizes |= {"w": w, "h": h, "fold": w - 12, "notch": w - 9, "w_round": w - h / 2}
    path = SHAPES[kind].format(**{name: f"{size:g}" for name, size in sizes.items()})
    colours = f'fill="{PALETTE[kind]}" stroke="{PALETTE[f"{kind}-line"]}"'
    return f'<path transform="translate({x:g},{y:g})" d="{path}" {colours} stroke-width="1.2"/>'


def draw_key(kind: str) -> str:
    """Return the shape of a kind, for a legend."""
    shape = _shape(kind, x=1, y=1, w=38, h=22)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="24" viewBox="0 0 40 24">{shape}</svg>'


def draw_rulegraph(dot: str) -> str:
    """Return Snakemake's rule graph as SVG, coloured by what a rule makes; the target rule `all` is left out."""
    import pygraphviz

    graph = pygraphviz.AGraph(string=dot)
    labels = {node: node.attr["label"] for node in graph.nodes()}
    nodes = {
        node: {"label": label, "kind": RULE_KINDS.get(label.rsplit("_", 1)[-1], "other")}
        for node, label in labels.items()
        if label != "all"
    }
    edges = [(tail, head) for tail, head in graph.edges() if tail in nodes and head in nodes]
    return draw_graph(nodes, edges, direction="TB")


if __name__ == "__main__":
    source, target = sys.argv[1:]
    dot = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    Path(target).write_text(draw_rulegraph(dot), encoding="utf-8")
