"""Plots as SVG text: scores, confusion matrices, losses. The same input gives the same bytes on any machine."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from moult.base.files import read_csv, read_json, write_text_atomic
from moult.base.legible import legible
from moult.base.stage import Job
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.leaderboard import MEANS
from moult.evaluation.scores import MOST_LABELS, confusion_tables, read_predictions
from moult.evaluation.suites import KINDS, kind_of
from moult.report.svg import PALETTE, shorten

STYLE = {
    "svg.fonttype": "none",
    # A name is text: no formula, however many dollar signs it has.
    "text.parse_math": False,
    "text.usetex": False,
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
SERIES = (("first", "o"), ("second", "D"), ("models-line", "s"))
# Where marks of one, two or three methods stand on a line.
SHIFTS = ((0,), (-0.16, 0.16), (-0.2, 0, 0.2))
# Lines of a panel that can be read.
MOST_MODELS = 60


def draw_scores(rows: Sequence[dict[str, str]], kinds: Sequence[SuiteKind] = KINDS) -> str:
    """Return the scores of one suite as SVG, out of its rows of summary.csv; the kind of suite says what is drawn.

    A panel per dataset and, where there are several, one for their mean; a line per model, a mark per method, with the
    95% interval of the headline metric; the baseline as a dashed line. Of more than MOST_MODELS models, the best by the
    last panel.
    """
    from matplotlib import style

    # Of no rows nothing is drawn, whatever their kind.
    kind = kind_of(rows, kinds) or kinds[0]
    headline, baseline = kind.headline, kind.baseline
    sets = {row["dataset"] for row in rows if not row.get("task")} - {*MEANS}
    factor, rows = headline.unit.factor, kind.panels(rows)
    found = {
        # Too few rows for an interval: the mark alone.
        (row["dataset"], row["model"], row["method"]): [
            factor * float(row[name] or row["value"]) for name in ("value", "ci_low", "ci_high")
        ]
        for row in rows
        if row["metric"] == headline.metric
    }
    datasets, models, methods = (list(dict.fromkeys(key[place] for key in found)) for place in range(3))
    baselines = {
        row["dataset"]: factor * float(row["value"]) for row in rows if baseline and row["metric"] == baseline.metric
    }
    panels = [name for name in datasets if name not in MEANS]
    if len(panels) > 1 and "mean" in datasets:
        if len(baselines) == len(panels):
            baselines["mean"] = sum(baselines.values()) / len(panels)
        panels.append("mean")
    total, models = len(models), _best(headline, found, models, panels[-1:])
    with style.context(["default", STYLE]):
        figure, axes = _grid(panels, len(models), len(methods))
        if len(models) < total:
            figure.suptitle(f"the {len(models)} best of {total} models", fontsize=9, color=PALETTE["muted"])
        for axis, panel in zip(axes, panels, strict=False):
            axis.set_title(
                shorten(panel) if panel != "mean" else f"mean of {len(sets if kind.related else panels[1:])} datasets"
            )
            if baseline and panel in baselines:
                axis.axvline(baselines[panel], color=PALETTE["muted"], ls=(0, (4, 3)), lw=1, label=baseline.label)
            for (colour, marker), method, shift in zip(SERIES, methods, SHIFTS[max(0, len(methods) - 1)], strict=False):
                _intervals(axis, found, panel, models, method, shift, PALETTE[colour], marker)
        _finish(figure, axes[: len(panels)], [shorten(name) for name in models], headline)
        return svg_of(figure)


def _best(headline, found, models, panel):
    """Return the models to draw, in the order given: by their best method in a panel."""
    if len(models) <= MOST_MODELS:
        return models
    values = {}
    for (dataset, model, _), (value, *_) in found.items():
        if dataset in panel:
            values.setdefault(model, []).append(value)
    ends = {model: (max if headline.higher_is_better else min)(own) for model, own in values.items()}
    chosen = sorted(ends, key=ends.__getitem__, reverse=headline.higher_is_better)[:MOST_MODELS]
    return [model for model in models if model in set(chosen)]


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


def _finish(figure, axes, models, headline):
    unit = headline.unit
    if not axes:
        figure.text(0.5, 0.5, "No model was measured on this suite.", ha="center", color=PALETTE["muted"])
    for axis in figure.axes:
        axis.set_visible(axis in axes)
    for axis in axes:
        axis.set_yticks(range(len(models)), models)
        axis.set_ylim(len(models) - 0.5, -0.5)
        if unit.sign:
            axis.xaxis.set_major_formatter(f"{{x:.0f}}{unit.sign}")
        if not unit.sign or not headline.higher_is_better:
            axis.set_xlabel(headline.label if headline.higher_is_better else f"{headline.label} (lower is better)")
        axis.tick_params(labelbottom=True)
    if axes and unit.bounds:
        low, high = axes[0].get_xlim()
        lowest, highest = (unit.factor * bound for bound in unit.bounds)
        axes[0].set_xlim(max(lowest, 10 * (low // 10)), min(highest, -10 * (-high // 10)))
    if axes:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names))


def draw_confusion(tables: Sequence[Mapping[str, Any]]) -> str:
    """Return confusion matrices as SVG, a line of them per dataset, one beside the other per method.

    tables: {dataset, method, labels, counts}, counts [labels, labels + 1] with the unread answers in the last column. A
    cell is shaded by its share of its row and holds its count; the diagonal is framed. Of more than MOST_LABELS labels,
    see `_readable`.
    """
    from matplotlib import style
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    tables = [_readable(table) for table in tables]
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
        return svg_of(figure)


def _readable(table):
    """Return a table with how many of its labels are `summed` as its last one: none of at most MOST_LABELS.

    Of more, those stay that are most often taken for another or another for them, then those of most rows.
    """
    labels, counts = table["labels"], table["counts"]
    if len(labels) <= MOST_LABELS:
        return table | {"summed": 0}
    guessed = [sum(row[place] for row in counts) for place in range(len(labels))]

    def rank(place):
        rows = sum(counts[place]) + guessed[place]
        return 2 * counts[place][place] - rows, -rows

    shown = sorted(sorted(range(len(labels)), key=rank)[: MOST_LABELS - 1])
    groups = [[place] for place in shown] + [sorted(set(range(len(labels))) - set(shown))]
    columns = [*groups, [len(labels)]]
    summed = [
        [sum(counts[line][place] for line in lines for place in places) for places in columns] for lines in groups
    ]
    names = [*(labels[place] for place in shown), f"{len(groups[-1])} others"]
    return table | {"labels": names, "counts": summed, "summed": len(groups[-1])}


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
    title = f"{shorten(table['dataset'])}, {table['method']}"
    if table["summed"]:
        title += f": the {n - 1} most confused of {n - 1 + table['summed']} labels"
    axis.set_title(title, x=0, fontsize=9)
    axis.set_yticks([i + 0.5 for i in range(n)], names, fontsize=7)
    axis.set_xticks([i + 0.5 for i in range(n + 1)], [*names, "unread"], rotation=90, fontsize=7)
    axis.tick_params(axis="x", labelcolor=PALETTE["ink"])
    axis.set_ylim(n, 0)
    axis.spines["bottom"].set_visible(False)


def draw_losses(rows: Sequence[Mapping[str, str]], best_step: int) -> str:
    """Return the loss curve of an adapter as SVG, out of the rows of its loss.csv: train, dev, and the step kept."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", STYLE]):
        figure = Figure(figsize=(5, 2.7), layout="constrained")
        axis = figure.subplots()
        for split, (colour, marker), width in zip(("train", "dev"), SERIES, (1.2, 1.6), strict=False):
            curve = [(int(row["step"]), float(row["loss"])) for row in rows if row["split"] == split]
            if curve:
                every = marker if split == "dev" or len(curve) == 1 else None
                axis.plot(*zip(*curve, strict=True), color=PALETTE[colour], lw=width, marker=every, ms=4.5, label=split)
        axis.axvline(best_step, color=PALETTE["muted"], lw=1, ls=(0, (4, 3)), label=f"kept: step {best_step}")
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside upper right", ncols=3)
        return svg_of(figure)


def svg_of(figure: Any) -> str:
    """Return a figure as SVG without date and without the blanks that matplotlib leaves at line ends."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return legible("\n".join(line.rstrip() for line in buffer.getvalue().split("\n")).rstrip("\n")) + "\n"


def run_scores(job: Job) -> None:
    """Do the job of plot_scores."""
    rows = [row for row in read_csv(job.inputs.summary) if row["suite"] == job.name]
    write_text_atomic(job.outputs.plot, draw_scores(rows))


def run_confusion(job: Job) -> None:
    """Do the job of plot_confusion."""
    predictions = (row for path in job.inputs.predictions for row in read_predictions(path))
    names = zip(job.recipe["datasets"], job.inputs.datasets, strict=True)
    labels = {name: read_json(f"{folder}/labels.json")["labels"] for name, folder in names}
    write_text_atomic(job.outputs.plot, draw_confusion(confusion_tables(job.recipe, predictions, labels)))
