"""Pictures of what the suites say together: heat map, radar, rankings, scores by a merge's parameter; their job."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import read_csv, read_json, whole_directory, write_csv, write_json, write_text_atomic
from moult.base.stage import Job
from moult.evaluation import relations
from moult.evaluation.suites import KINDS
from moult.report.plots import SERIES, STYLE, svg_of
from moult.report.svg import PALETTE, shorten

# Lines and columns of a heat map, and outlines of a radar, that can be read.
MOST_MODELS, MOST_COLUMNS, MOST_OUTLINES = 40, 16, 5
LINES = ("first", "second", "models-line", "adapters-line", "corpora-line")
COLUMNS = {
    "scores": relations.TIDY,
    "groups": relations.GROUPS,
    "taus": relations.TAUS,
    "parameters": relations.SERIES,
    "changes": relations.CHANGES,
}
Rows = Sequence[Mapping[str, Any]]


def _ranked(groups: Rows) -> list[str]:
    """Return the models, the best first: by their mean place in the means of all suites."""
    places: dict[str, list[float]] = {}
    for measure in dict.fromkeys(row["measure"] for row in groups if row["over"] == "suite"):
        own = [row["model"] for row in groups if row["measure"] == measure]
        for place, model in enumerate(own):
            places.setdefault(model, []).append(place / len(own))
    return sorted(places, key=lambda model: (-len(places[model]), sum(places[model]) / len(places[model])))


def draw_heat(groups: Rows) -> str | None:
    """Return models × measures as SVG, the best models first: a number is the mean, its shade where it lies between the
    lowest and the highest of its column. None without two models."""
    from matplotlib import style
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    models = _ranked(groups)
    total, models = len(models), models[:MOST_MODELS]
    columns = list(dict.fromkeys(row["measure"] for row in groups if row["over"] != "phenomenon"))[:MOST_COLUMNS]
    cells = {(row["model"], row["measure"]): row["value"] for row in groups}
    if len(models) < 2:
        return None
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(2.6 + 0.62 * len(columns), 2.2 + 0.24 * len(models)), layout="constrained")
        axis = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shades", [PALETTE["card"], PALETTE["first"]])
        for place, column in enumerate(columns):
            values = [cells[model, column] for model in models if (model, column) in cells]
            low, high = min(values), max(values)
            for line, model in enumerate(models):
                if (model, column) in cells:
                    value = cells[model, column]
                    share = (value - low) / (high - low) if high > low else 0.0
                    axis.fill_between([place, place + 1], line, line + 1, color=shades(0.75 * share), lw=0)
                    colour = PALETTE["card" if share > 0.75 else "ink"]
                    axis.text(
                        place + 0.5, line + 0.5, f"{value:.3f}", ha="center", va="center", fontsize=6, color=colour
                    )
        axis.set_xlim(0, len(columns))
        axis.set_ylim(len(models), 0)
        axis.set_yticks([line + 0.5 for line in range(len(models))], [shorten(name) for name in models], fontsize=7)
        names = [shorten(name, 36) for name in columns]
        axis.set_xticks([place + 0.5 for place in range(len(columns))], names, rotation=90, fontsize=7)
        axis.grid(False)
        axis.spines["bottom"].set_visible(False)
        if len(models) < total:
            axis.set_title(f"the {len(models)} best of {total} models", fontsize=9)
        return svg_of(figure)


def radar_axes(groups: Rows) -> list[str]:
    """Return the measures that are a radar's axes: subfields of the suite that has most of them, or else the suites."""
    by_suite: dict[str, list[str]] = {}
    for row in groups:
        if row["over"] == "subfield" and row["measure"] not in by_suite.setdefault(row["suite"], []):
            by_suite[row["suite"]].append(row["measure"])
    most = max(by_suite.values(), key=len, default=[])
    return most if len(most) > 2 else list(dict.fromkeys(row["measure"] for row in groups if row["over"] == "suite"))


def draw_radar(groups: Rows, merges: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the outlines of the best merge, its parents and the best other models over subfields, as SVG; None with
    fewer than three axes."""
    import math

    from matplotlib import style
    from matplotlib.figure import Figure

    axes, cells = radar_axes(groups), {(row["model"], row["measure"]): row["value"] for row in groups}
    whole = [model for model in _ranked(groups) if all((model, one) in cells for one in axes)]
    best = next((model for model in whole if model in merges), None)
    family = [best, *(name for name in merges[best]["parents"] if name in whole)] if best else []
    models = list(dict.fromkeys([*family, *whole]))[:MOST_OUTLINES]
    if len(axes) < 3 or not models:
        return None
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(5.4, 4.4), layout="constrained")
        axis = figure.add_subplot(projection="polar")
        turns = [2 * math.pi * place / len(axes) for place in range(len(axes))]
        for colour, model in zip(LINES, models, strict=False):
            values = [cells[model, one] for one in axes]
            closed = [*zip(turns, values, strict=True), (turns[0], values[0])]
            axis.plot(*zip(*closed, strict=True), color=PALETTE[colour], lw=1.4, marker="o", ms=3, label=shorten(model))
        axis.set_xticks(turns, [shorten(one.partition(": ")[2] or one) for one in axes])
        axis.tick_params(labelsize=7)
        figure.legend(loc="outside right upper", fontsize=7)
        return svg_of(figure)


def draw_taus(rows: Rows) -> str | None:
    """Return Kendall's tau-b of the measures, each with each, as SVG; None without any."""
    from matplotlib import style
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    found = {(row["first"], row["second"]): row["tau_b"] for row in rows}
    names = list(dict.fromkeys(itertools.chain(*found)))[:MOST_COLUMNS]
    if len(names) < 2:
        return None
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(3 + 0.42 * len(names), 2.2 + 0.36 * len(names)), layout="constrained")
        axis = figure.subplots()
        shades = LinearSegmentedColormap.from_list("two", [PALETTE["second"], PALETTE["card"], PALETTE["first"]])
        for (line, first), (place, second) in itertools.product(enumerate(names), repeat=2):
            value = found.get((first, second), found.get((second, first)))
            if first != second and value is not None:
                axis.fill_between([place, place + 1], line, line + 1, color=shades(0.5 + 0.4 * value), lw=0)
                axis.text(
                    place + 0.5, line + 0.5, f"{value:.2f}".replace("-", "−"), ha="center", va="center", fontsize=6
                )
        axis.set_xlim(0, len(names))
        axis.set_ylim(len(names), 0)
        short = [shorten(name, 36) for name in names]
        axis.set_yticks([line + 0.5 for line in range(len(names))], short, fontsize=7)
        axis.set_xticks([line + 0.5 for line in range(len(names))], short, rotation=90, fontsize=7)
        axis.grid(False)
        return svg_of(figure)


def draw_parameters(rows: Rows) -> str | None:
    """Return the means of suites against a parameter of merges as SVG, a panel per series and suite, parents as lines;
    None without a series."""
    from matplotlib import style
    from matplotlib.figure import Figure

    panels: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["series"], row["suite"], row["method"]), []).append(row)
    # The series with the highest score first; the CSV has all.
    order = sorted(panels, key=lambda key: -max(row["score"] for row in panels[key]))
    shown = [(key, panels[key]) for key in order[:12]]
    if not shown:
        return None
    with style.context(["default", STYLE]):
        columns = min(3, len(shown))
        lines = -(-len(shown) // columns)
        figure = Figure(figsize=(0.6 + 2.9 * columns, 0.4 + 2.6 * lines), layout="constrained")
        for place, ((name, suite, _), mine) in enumerate(shown, 1):
            axis = figure.add_subplot(lines, columns, place)
            points = sorted((row["value"], row["score"], row) for row in mine if row["role"] == "merge")
            axis.plot(
                [x for x, *_ in points],
                [y for _, y, _ in points],
                SERIES[0][1],
                color=PALETTE["first"],
                ls="-",
                lw=1.4,
                ms=4,
            )
            for x, y, row in points:
                if row["ci_low"] is not None:
                    axis.vlines(
                        x, min(y, row["ci_low"]), max(y, row["ci_high"]), color=PALETTE["first"], lw=1.2, alpha=0.5
                    )
            parents = [row for row in mine if row["role"] == "parent"]
            for colour, row in zip(LINES[1:], parents, strict=False):
                axis.axhline(row["score"], color=PALETTE[colour], lw=1, ls=(0, (4, 3)), label=shorten(row["model"], 20))
            axis.set_title(f"{shorten(suite, 20)}\n{shorten(name, 34)}", fontsize=8)
            axis.set_xlabel(shorten(mine[0]["parameter"], 30), fontsize=7)
            axis.tick_params(labelsize=7)
            if parents:
                axis.legend(fontsize=6)
        return svg_of(figure)


def run(job: Job) -> None:
    """Do the job of relate_scores: the tables as CSV, the pictures drawn from them as SVG, and what the page shows."""
    sets = {Path(path).stem: read_json(path)["sets"] for path in job.inputs.probes}
    rows, differences = read_csv(job.inputs.summary), read_csv(job.inputs.differences)
    found = relations.related(job.recipe, rows, differences, sets, KINDS)
    pictures = {
        "heat": draw_heat(found["groups"]),
        "radar": draw_radar(found["groups"], job.recipe["merges"]),
        "taus": draw_taus(found["taus"]),
        "parameters": draw_parameters(found["parameters"]),
    }
    with whole_directory(job.outputs.relations) as folder:
        for name, table in found.items():
            write_csv(folder / f"{name}.csv", table, COLUMNS[name])
        for name, svg in pictures.items():
            if svg:
                write_text_atomic(folder / f"{name}.svg", svg)
        write_json(folder / "relations.json", {key: found[key] for key in ("taus", "changes")})
    job.facts = {"models": len({row["model"] for row in found["scores"]}), "pairs": len(found["taus"])}
