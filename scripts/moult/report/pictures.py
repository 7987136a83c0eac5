"""Pictures as SVG text: lineage graph, score plots, loss curves. The same input gives the same bytes on any machine.

`python scripts/moult/pictures.py rulegraph.dot rulegraph.svg` draws what `snakemake --rulegraph dot` prints ("-" reads
standard input). Nothing of moult is imported here, so that this works from the repository's root.
"""

import html
import io
import re
import sys
from pathlib import Path

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
# Raise when confusion matrices are drawn otherwise: it redraws them.
CONFUSION_VERSION = 1
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
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "moult",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": PALETTE["card"],
    "axes.facecolor": "none",
    "text.color": PALETTE["ink"],
    "axes.titlecolor": PALETTE["ink"],
    "axes.labelcolor": PALETTE["muted"],
    "axes.edgecolor": PALETTE["rule"],
    "grid.color": PALETTE["rule"],
    "xtick.labelcolor": PALETTE["muted"],
    "ytick.labelcolor": PALETTE["ink"],
}
SERIES = (("first", "o"), ("second", "D"))


def shorten(name, length=28):
    """Return a name with its middle left out, where it is longer than `length`."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"


# ---------------------------------------------------------------- graphs


def draw_graph(nodes, edges, dashed=(), direction="LR"):
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
        width, height = (f"{size / 72:.4f}" for size in sizes[key])
        graph.add_node(key, label="", shape="box", fixedsize="true", width=width, height=height)
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
        first, *rest = (f"{x:.1f},{height - y:.1f}" for x, y in points)
        path = f"M{first} C{' '.join(rest)}"
        dashes = ' stroke-dasharray="4 3" opacity="0.75"' if edge in set(dashed) else ""
        parts.append(f'<path d="{path}" fill="none" stroke="{PALETTE["edge"]}"{dashes} marker-end="url(#arrow)"/>')
    for key, node in nodes.items():
        x, y = map(float, graph.get_node(key).attr["pos"].split(","))
        parts.append(_node(node, x, height - y, *sizes[key]))
    return "\n".join([*parts, "</svg>\n"])


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
        f'<g transform="translate({x:.1f},{y:.1f})" text-anchor="middle" fill="{PALETTE["ink"]}">'
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


def draw_key(kind):
    """Return the shape of a kind, for a legend."""
    shape = _shape(kind, x=1, y=1, w=38, h=22)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="24" viewBox="0 0 40 24">{shape}</svg>'


def draw_rulegraph(dot):
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


# ---------------------------------------------------------------- plots


def draw_scores(rows):
    """Return the accuracies of one suite as SVG, out of its rows of summary.csv.

    A panel per dataset and, where there are several, one for their mean; a line per model, a mark per method, with the
    95% interval; the accuracy of the majority label as a dashed line. Of a judged suite: its win shares.
    """
    from matplotlib import style

    shares = win_shares(rows)
    rows = shares or rows
    found = {
        (row["dataset"], row["model"], row["method"]): [
            100 * float(row[name]) for name in ("value", "ci_low", "ci_high")
        ]
        for row in rows
        if row["metric"] == "accuracy"
    }
    datasets, models, methods = (list(dict.fromkeys(key[place] for key in found)) for place in range(3))
    majorities = {row["dataset"]: 100 * float(row["value"]) for row in rows if row["metric"] == "majority_accuracy"}
    panels = [name for name in datasets if name not in ("mean", "weighted_mean")]
    if len(panels) > 1 and not shares:
        if len(majorities) == len(panels):
            majorities["mean"] = sum(majorities.values()) / len(panels)
        panels.append("mean")
    with style.context(["default", STYLE]):
        figure, axes = _grid(panels, len(models), len(methods))
        for axis, panel in zip(axes, panels, strict=False):
            axis.set_title(shorten(panel) if panel != "mean" else f"mean of {len(panels) - 1} datasets")
            if panel in majorities:
                axis.axvline(majorities[panel], color=PALETTE["muted"], ls=(0, (4, 3)), lw=1, label="majority label")
            for (colour, marker), method, shift in zip(SERIES, methods, (-0.16, 0.16), strict=False):
                _intervals(
                    axis, found, panel, models, method, shift if len(methods) > 1 else 0, PALETTE[colour], marker
                )
        _finish(figure, axes[: len(panels)], [shorten(name) for name in models])
        return _svg_of(figure)


def win_shares(rows):
    """Return the win shares of a judged suite as accuracies are drawn, a panel per criterion; none of another suite."""
    shares = [row for row in rows if row["metric"] == "win_share" and row["dataset"] == "weighted_mean"]
    return [row | {"dataset": row["task"], "metric": "accuracy"} for row in shares]


def _grid(panels, models, methods):
    """Return a figure and its axes, as many columns as can be read beside each other."""
    from matplotlib.figure import Figure

    columns = min(3, max(1, len(panels)))
    lines = -(-max(1, len(panels)) // columns)
    height = lines * (0.75 + models * (0.2 + 0.1 * methods)) + 0.5
    figure = Figure(figsize=(3.2 + 2.6 * columns, height), layout="constrained")
    figure.get_layout_engine().set(wspace=0.07, hspace=0.04)
    return figure, list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)


def _intervals(axis, found, panel, models, method, shift, colour, marker):
    points = [
        (place, *found[panel, model, method]) for place, model in enumerate(models) if (panel, model, method) in found
    ]
    if points:
        places, values, lows, highs = zip(*points, strict=True)
        lines = [place + shift for place in places]
        axis.hlines(lines, lows, highs, color=colour, lw=1.6, alpha=0.55, clip_on=False)
        axis.plot(values, lines, marker, color=colour, ms=5, label=method, clip_on=False)


def _finish(figure, axes, models):
    if not axes:
        figure.text(0.5, 0.5, "No model was measured on this suite.", ha="center", color=PALETTE["muted"])
    for axis in figure.axes:
        axis.set_visible(axis in axes)
    for axis in axes:
        axis.set_yticks(range(len(models)), models)
        axis.set_ylim(len(models) - 0.5, -0.5)
        axis.xaxis.set_major_formatter("{x:.0f}%")
        axis.tick_params(labelbottom=True)
    if axes:
        low, high = axes[0].get_xlim()
        axes[0].set_xlim(max(0, 10 * (low // 10)), min(100, -10 * (-high // 10)))
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names))


def draw_confusion(tables):
    """Return confusion matrices as SVG, a line of them per dataset, one beside the other per method.

    tables: {dataset, method, labels, counts}, counts [labels, labels + 1] with the unread answers in the last column.
    A cell is shaded by its share of its row and holds its count; the diagonal is framed.
    """
    from matplotlib import style
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    datasets, methods = (list(dict.fromkeys(table[key] for table in tables)) for key in ("dataset", "method"))
    shades = LinearSegmentedColormap.from_list("share", [PALETTE["card"], PALETTE["first"]])
    sizes = {table["dataset"]: len(table["labels"]) for table in tables}
    longest = {table["dataset"]: max(len(shorten(label, 24)) for label in table["labels"]) for table in tables}
    cell, margin = 0.24, 0.075 * max(longest.values()) + 0.35
    width = len(methods) * (margin + cell * (max(sizes.values()) + 1)) + 0.3
    heights = [0.075 * max(longest[name], len("unread")) + 0.55 + cell * sizes[name] for name in datasets]
    with style.context(["default", STYLE, {"axes.grid": False}]):
        # A matrix of two labels is as wide as its title needs.
        figure = Figure(figsize=(max(width, 3.2 * len(methods)), sum(heights)))
        top = sum(heights)
        for name, height in zip(datasets, heights, strict=True):
            for table in (table for table in tables if table["dataset"] == name):
                left = 0.15 + margin + methods.index(table["method"]) * figure.get_figwidth() / len(methods)
                box = (left, top - 0.35 - cell * sizes[name], cell * (sizes[name] + 1), cell * sizes[name])
                scale = (figure.get_figwidth(), figure.get_figheight()) * 2
                axis = figure.add_axes([length / whole for length, whole in zip(box, scale, strict=True)])
                _matrix(axis, table, shades)
            top -= height
        return _svg_of(figure)


def _matrix(axis, table, shades):
    """Draw one confusion matrix."""
    n = len(table["labels"])
    shares = [[count / max(1, sum(row)) for count in row] for row in table["counts"]]
    axis.pcolormesh(shares, cmap=shades, vmin=0, vmax=1, edgecolors=PALETTE["rule"], linewidth=0.4)
    for line, row in enumerate(table["counts"]):
        for place, count in enumerate(row):
            colour = PALETTE["card"] if shares[line][place] > 0.55 else PALETTE["ink"]
            if count:
                axis.text(place + 0.5, line + 0.5, count, ha="center", va="center", fontsize=6, color=colour)
        axis.plot(
            [line, line + 1, line + 1, line, line],
            [line, line, line + 1, line + 1, line],
            color=PALETTE["ink"],
            lw=0.6,
            clip_on=False,
        )
    names = [shorten(label, 24) for label in table["labels"]]
    axis.set_title(f"{shorten(table['dataset'])}, {table['method']}", x=0, fontsize=9)
    axis.set_yticks([i + 0.5 for i in range(n)], names, fontsize=7)
    axis.set_xticks([i + 0.5 for i in range(n + 1)], [*names, "unread"], rotation=90, fontsize=7)
    axis.tick_params(axis="x", labelcolor=PALETTE["ink"])
    axis.set_ylim(n, 0)
    axis.spines["bottom"].set_visible(False)


def draw_losses(rows, best_step):
    """Return the loss curve of an adapter as SVG, out of the rows of its loss.csv: train, dev, and the step kept."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(5, 2.7), layout="constrained")
        axis = figure.subplots()
        for split, (colour, marker), width in zip(("train", "dev"), SERIES, (1.2, 1.6), strict=True):
            curve = [(int(row["step"]), float(row["loss"])) for row in rows if row["split"] == split]
            if curve:
                every = marker if split == "dev" or len(curve) == 1 else None
                axis.plot(*zip(*curve, strict=True), color=PALETTE[colour], lw=width, marker=every, ms=4.5, label=split)
        axis.axvline(best_step, color=PALETTE["muted"], lw=1, ls=(0, (4, 3)), label=f"kept: step {best_step}")
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper right", ncols=3)
        return _svg_of(figure)


def _svg_of(figure):
    """Return a figure as SVG without date and without the blanks that matplotlib leaves at line ends."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


# ---------------------------------------------------------------- into a page


def inline_svg(svg, prefix, label):
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
    return svg.replace("<svg", f'<svg role="{role}" aria-label="{html.escape(label)}"', 1)


if __name__ == "__main__":
    source, target = sys.argv[1:]
    dot = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    Path(target).write_text(draw_rulegraph(dot), encoding="utf-8")
