"""The report: one HTML file that tells what was built from what, how good it is, and what it cost."""

import json
import os
import re
from pathlib import Path

from moult.base.files import digest, read_csv, write_text_atomic
from moult.base.paths import RESOURCES
from moult.evaluation import leaderboard
from moult.evaluation.pairwise import METHOD as JUDGED
from moult.report import graphs
from moult.report.accounts import (
    corpus_entry,
    dataset_entry,
    judged_entry,
    judging_cost,
    loss_entry,
    row_accounts,
    total_cost,
)
from moult.report.lineage import draw_lineage, package_versions, read_manifests, stale_parents
from moult.report.svg import inline_svg

# Raise when the template, the style or the pictures change: it rewrites reports.
VERSION = 3
LOOKS = RESOURCES / "report"
WORDS = {
    "generate": "by generation",
    "likelihood": "by label likelihood",
    "judged": "judged in pairs",
    "mean": "mean",
    "weighted_mean": "weighted mean",
    "datasets": "dataset",
    "corpora": "corpus",
    "adapters": "adapter",
    "models": "model",
    "suites": "suite",
    "predictions": "predictions",
    "answers": "answers",
    "judgements": "judgements",
    "scores": "scores",
}


def write_report(target, *, summary, differences, plots, confusion, manifests, leakage, title, limit, seed):
    """Write the report of one experiment; the files beside the manifests tell losses, usage, rejects and samples.

    summary, differences: CSV files (labelling.COLUMNS, labelling.DIFFERENCES); plots: an SVG per suite; confusion: an
    SVG per suite and model or setting, which the report links to; manifests: of everything the config names;
    leakage: a CSV per dataset; limit: rows per split of a smoke run, or None.
    """
    root = Path(summary).parents[1]
    made = read_manifests(manifests, root)
    scores, compared = read_csv(summary), read_csv(differences)
    suites = leaderboard.suite_tables(
        *([row for row in rows if row["method"] != JUDGED] for rows in (scores, compared))
    )
    judged = leaderboard.judged_suites(
        *([row for row in rows if row["method"] == JUDGED] for rows in (scores, compared))
    )
    for suite in judged:
        suite |= judged_entry(suite["name"], made, root)
    leaks = {Path(path).stem: read_csv(path) for path in leakage}
    corpora = [corpus_entry(one, root) for one in made.values() if one["kind"] == "corpora"]
    costs = corpora + [judging_cost(one, root) for one in made.values() if one["kind"] == "judgements"]
    page = {
        "title": title,
        "experiment": root.name,
        "limit": limit,
        "seed": seed,
        "build": digest({key: one["content"] for key, one in made.items()}),
        "artefacts": made,
        "suites": suites,
        "plots": {Path(plot).stem: Path(plot).read_text(encoding="utf-8") for plot in plots},
        "confusion": {Path(path).parts[-2:-1] + (Path(path).stem,): _link(path, target) for path in confusion},
        "verdicts": [leaderboard.verdict(suite["name"], table) for suite in suites for table in suite["tables"]],
        "unread": [line for suite in suites for line in leaderboard.unread_answers(suite)],
        "lineage": draw_lineage(made),
        "trained": [loss_entry(one, root) for one in made.values() if one["facts"].get("steps")],
        "datasets": [dataset_entry(one, leaks, root) for one in made.values() if one["kind"] == "datasets"],
        "corpora": corpora,
        "judged": judged,
        "costs": costs,
        "cost": total_cost(costs),
        "accounts": row_accounts(made, corpora, root),
        "versions": package_versions(made),
        "stale": stale_parents(made),
    }
    write_text_atomic(target, render(page))


def _link(path, page):
    """Return the link from a page to a file."""
    return Path(os.path.relpath(path, Path(page).parent)).as_posix()


def render(page):
    """Return the HTML of a page; whatever data says is escaped."""
    import jinja2
    from markupsafe import Markup

    def signed(value):
        return f"{100 * value:+.1f}".replace("-", "−") if abs(value) >= 0.0005 else "0.0"

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(LOOKS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": lambda value: "–" if value is None else f"{100 * value:.1f}%",
        "interval": lambda one: f"[{100 * one['low']:.1f}, {100 * one['high']:.1f}]",
        "signed": signed,
        "signed_interval": lambda one: f"[{signed(one['low'])}, {signed(one['high'])}]",
        "count": lambda value: f"{value:,}",
        "dollars": lambda value: f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.4f}",
        "bytes": lambda size: f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB",
        "words": lambda key: WORDS.get(key, key),
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
        "legible": _legible,
        "breakable": lambda name: Markup("<wbr>").join(re.split(r"(?<=[-_./])", name)),
        "inline": lambda svg, prefix, label: Markup(inline_svg(svg, prefix, label)),
    }
    style = Markup((LOOKS / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(**page, style=style, draw_key=graphs.draw_key)


def _legible(text, length):
    """Return a text cut at `length`, without control characters and those that turn the direction of writing."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "�", str(text)).strip()
    return text if len(text) <= length else f"{text[:length].rstrip()} …"
