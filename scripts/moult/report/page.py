"""The report: one HTML file that tells what was built from what, how good it is, and what it cost."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import digest, read_csv, read_json, write_text_atomic
from moult.base.legible import legible
from moult.base.paths import RESOURCES, ROOT
from moult.base.rows import Facts, Recipe
from moult.evaluation.kinds import PERCENT, SuiteKind
from moult.evaluation.suites import KINDS
from moult.report import graphs
from moult.report.accounts import (
    add_payments,
    asking_cost,
    corpus_entry,
    dataset_entry,
    loss_entry,
    row_accounts,
    total_cost,
)
from moult.report.lineage import draw_lineage, measurements_of, package_versions, read_manifests, stale_parents
from moult.report.svg import inline_svg

# Raise when the template, the style or the pictures change: it rewrites reports.
VERSION = 4
TEMPLATES = RESOURCES / "report"
WORDS = {
    "weighted_mean": "weighted mean",
    "datasets": "dataset",
    "corpora": "corpus",
    "adapters": "adapter",
    "models": "model",
    "suites": "suite",
}


def write_report(
    target: str | Path,
    *,
    summary: str | Path,
    differences: str | Path,
    plots: Iterable[str | Path],
    confusion: Iterable[str | Path],
    manifests: Iterable[str | Path],
    leakage: Iterable[str | Path],
    title: str,
    limit: int | None,
    seed: int,
    words: Mapping[str, Callable[[Recipe, Facts], tuple[str, str]]],
    kinds: Sequence[SuiteKind] = KINDS,
    related: Path | None = None,
) -> None:
    """Write the report of one experiment; the files beside the manifests tell losses, usage, rejects and samples.

    summary, differences: CSV files (scores.COLUMNS, scores.DIFFERENCES); plots: an SVG per suite; confusion: an
    SVG per suite and model or setting, which the report links to; manifests: of everything the config names;
    leakage: a CSV per dataset; limit: rows per split of a smoke run, or None; words: rule → what its
    manifests say, see `read_manifests`; kinds: of suites, a section each; related: folder of what the suites say
    together (`report.relation_plots`), None where nothing does.
    """
    root = Path(summary).parents[1]
    made = read_manifests(manifests, root, words)
    tables = read_csv(summary), read_csv(differences)
    measured: list[dict[str, Any]] = []
    for kind in kinds:
        suites = kind.tables(kind, *([row for row in rows if row["method"] in kind.methods] for rows in tables))
        for suite in suites:
            suite |= kind.samples(measurements_of(suite["name"], kind, made), root)
            of_suite = f"{kind.of_suite}/{suite['name']}"
            suite["whole"] = read_json(root / f"{of_suite}.json") if of_suite in made else None
        measured.append({"kind": kind, "suites": suites})
    suites = [suite for section in measured for suite in section["suites"]]
    for number, suite in enumerate(suites, 1):
        suite["number"] = number
    leaks = {Path(path).stem: read_csv(path) for path in leakage}
    corpora = [corpus_entry(one, root) for one in made.values() if one["kind"] == "corpora"]
    verbs = {folder: verb for kind in kinds for folder, verb in kind.paid.items()}
    # A judge that is a file or a rule of thumb asked nobody.
    paid = [one for one in made.values() if one["kind"] in verbs and one["recipe"]["endpoint"]]
    costs = corpora + [asking_cost(one, root) for one in paid]
    accounts = row_accounts(made, corpora, root, kinds)
    lost = [account for account in accounts if account["rejected"]]
    beside = add_payments(costs, root.name)
    page = {
        "title": title,
        "experiment": root.name,
        "limit": limit,
        "seed": seed,
        "again": command_of(root),
        "build": digest({key: one["content"] for key, one in made.items()}),
        "artefacts": made,
        "measured": measured,
        "suites": suites,
        "plots": {Path(plot).stem: Path(plot).read_text(encoding="utf-8") for plot in plots},
        "confusion": {Path(path).parts[-2:-1] + (Path(path).stem,): _link(path, target) for path in confusion},
        "related": related and related_entry(related, target),
        "leaders": [leader for suite in suites for leader in suite["leaders"]],
        "lineage": draw_lineage(made, kinds),
        "trained": [loss_entry(one, root) for one in made.values() if one["facts"].get("steps")],
        "datasets": [dataset_entry(one, leaks, root) for one in made.values() if one["kind"] == "datasets"],
        "corpora": corpora,
        "paid": {one["kind"]: verbs[one["kind"]] for one in paid},
        "costs": costs,
        "cost": total_cost(costs, beside),
        "accounts": accounts,
        "lost": sorted(lost, key=lambda account: -account["rejected"] / max(account["given"], 1)),
        "rejected": {account["key"]: account for account in lost},
        "unpublished": [one["name"] for one in made.values() if one["kind"] == "scores" and _is_unpublished(one)],
        "versions": package_versions(made),
        "stale": stale_parents(made),
    }
    write_text_atomic(target, render(page))


def related_entry(folder: Path, page: str | Path) -> dict[str, Any]:
    """Return what the page shows of a folder of `relate_scores`: pictures, tables, and links to the files."""
    found = read_json(folder / "relations.json")
    changes = [one for one in found["changes"] if one["change"] != "even"]
    pictures = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.svg"))}
    return {
        "taus": sorted(found["taus"], key=lambda one: (one["p"], -abs(one["tau_b"]))),
        "changes": sorted(changes, key=lambda one: (one["merge"], one["parent"], one["difference"])),
        "even": len(found["changes"]) - len(changes),
        "pictures": pictures,
        "files": {path.name: _link(path, page) for path in sorted(folder.iterdir()) if path.suffix in (".csv", ".svg")},
    }


def _is_unpublished(one):
    """Whether the scores of a smoke run would have stood beside published values."""
    return bool(one["recipe"].get("limit") and one["recipe"].get("reference"))


def _spans(columns, most):
    """Return (begin, end) of the parts of a list that is split evenly, each of at most `most` entries."""
    parts = -(-len(columns) // most)
    size = -(-len(columns) // parts) if parts else 1
    return [(begin, min(begin + size, len(columns))) for begin in range(0, len(columns), size)]


def command_of(root: Path, checkout: Path = ROOT) -> str:
    """Return the command that builds an experiment again, in the folder in which it was built.

    A workflow that has Moult as a module keeps no config beside the results; its own command does it.
    """
    if not (root / "config.yaml").exists():
        return "snakemake --cores all"
    words = ["snakemake", "--configfile", f"{root.as_posix()}/config.yaml"]
    if Path.cwd() != checkout:
        words += ["--snakefile", str(checkout / "Snakefile")]
    return shlex.join([*words, "--cores", "all"])


def _link(path, page):
    """Return the link from a page to a file."""
    return Path(os.path.relpath(path, Path(page).parent)).as_posix()


def render(page: Mapping[str, Any]) -> str:
    """Return the HTML of a page; whatever data says is escaped, and nothing in it acts (`legible`)."""
    import jinja2
    from markupsafe import Markup

    words = WORDS | {method: told for section in page["measured"] for method, told in section["kind"].methods.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": PERCENT.text,
        "interval": PERCENT.interval,
        "signed": PERCENT.signed,
        "signed_interval": PERCENT.signed_interval,
        "count": lambda value: f"{value:,}",
        "dollars": lambda value: f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.4f}",
        "bytes": lambda size: f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB",
        "words": lambda key: words.get(key, key),
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True),
        "cut": _cut,
        "spans": _spans,
        "breakable": lambda name: Markup("<wbr>").join(re.split(r"(?<=[-_./])", name)),
        "inline": lambda svg, prefix, label: Markup(inline_svg(svg, prefix, label)),
    }
    shared = {"draw_key": graphs.draw_key, "percent_unit": PERCENT}
    style = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return legible(environment.get_template("report.html.j2").render(**page, style=style, **shared))


def _cut(text, length):
    """Return a text cut at `length`."""
    text = str(text).strip()
    return text if len(text) <= length else f"{text[:length].rstrip()} …"
