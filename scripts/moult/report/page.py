"""The report: one HTML file that tells what was built from what, how good it is, and what it cost."""

import base64
import json
import os
import re
from collections import Counter
from pathlib import Path

from moult.base.files import digest, read_csv, read_json, read_jsonl, write_text_atomic
from moult.base.paths import RESOURCES
from moult.data import tables
from moult.evaluation import leaderboard
from moult.evaluation.pairwise import METHOD as JUDGED
from moult.report import pictures

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
# Rules whose artefacts hold train.json and loss.csv.
TRAINERS = ("finetune_lora", "finetune_full", "optimise_lora", "optimise_full")
# A larger graph is told by the table below it.
MOST_NODES = 60
SAMPLES = 3


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


# ---------------------------------------------------------------- what was built from what


def read_manifests(paths, root):
    """Return key → manifest, the key being kind and name (`models/base`), and in words what the artefact is."""
    made = {}
    for path in paths:
        key = Path(path).relative_to(root).as_posix().removesuffix(".manifest.json")
        one = read_json(path)
        kind, name = key.split("/", 1)
        parents = {parent.removeprefix(f"{root.as_posix()}/"): content for parent, content in one["parents"].items()}
        short, long = _in_words(one["rule"], one["recipe"], one["facts"])
        size = sum(file["size"] for file in one["files"].values())
        made[key] = one | {"key": key, "kind": kind, "name": name, "parents": parents}
        made[key] |= {"short": short, "long": long, "size": size}
    return made


def _in_words(rule, recipe, facts):
    """Return what a manifest says of its artefact, in few words for a picture and in more for a table."""
    match rule:
        case "prepare_dataset":
            rows = " · ".join(f"{one['rows']:,} {split}" for split, one in _in_order(facts["splits"]).items())
            return rows, f"{recipe['format']} rows, task {recipe['task']}: {rows}"
        case "generate_guidelines" | "distill_answers":
            author = _author(recipe["endpoint"])
            decoding = recipe["decoding"]
            limits = f"temperature {decoding['temperature']:g}, at most {decoding['max_tokens']} tokens"
            return (
                f"{facts['rows']:,} rows by {author}",
                f"{facts['rows']:,} rows written by {author}, {limits}",
            )
        case "refine_answers":
            author, judge = _author(recipe["endpoint"]), _author(recipe["judge"])
            accepted = f"{facts['rows']:,} of {facts['rows_in']:,} rows by {author}"
            often = f"at most {recipe['max_iterations']} answers each, {facts['revised']:,} accepted after revision"
            return accepted, f"{accepted}, accepted by {judge}; {often}"
        case "contrast_answers":
            author, (way, number) = _author(recipe["endpoint"]), _costly(recipe["chosen"])
            pairs = f"{facts['rows']:,} pairs by {author}"
            return pairs, f"{pairs}, chosen: the {way} of {number}"
        case "finetune_full" | "optimise_full":
            loss, data = _loss(recipe), ", ".join(recipe["data"])
            steps = f"{loss}all weights, {facts['steps']:,} steps"
            rate = f"learning rate {recipe['learning_rate']:g}"
            return steps, f"{loss}all weights, {rate}, {facts['steps']:,} steps on {data}"
        case "finetune_lora" | "optimise_lora":
            lora = f"{_loss(recipe)}LoRA rank {recipe['lora']['rank']}"
            data = ", ".join(recipe["data"])
            rate = f"alpha {recipe['lora']['alpha']:g}, learning rate {recipe['learning_rate']:g}"
            return f"{lora}, {facts['steps']:,} steps", f"{lora}, {rate}, {facts['steps']:,} steps on {data}"
        case "fetch_model":
            source = recipe["source"]
            place = source.get("hub") or source.get("package") or "a local folder"
            pin = source.get("revision") or source.get("version") or "as it was"
            count = facts["parameters"]
            size = f"{count / 1e9:.3g} B parameters" if count >= 1e9 else f"{count / 1e6:.3g} M parameters"
            return size, f"{place}, {pin}: {size}"
        case "fold_adapter":
            return "adapter folded in", f"the adapter folded into {recipe['base']}"
        case "merge_models":
            parents = [
                parent["model"] + "".join(f", {key} {parent[key]}" for key in ("weight", "density") if key in parent)
                for parent in recipe["parents"]
            ]
            onto = f" on {recipe['base']}" if recipe["base"] else ""
            return f"{recipe['method']} merge", f"{recipe['method']} of {'; '.join(parents)}{onto}"
        case "predict_labels":
            return "", f"{' and '.join(recipe['methods'])} on {recipe['split']}, {recipe['compute']['engine']}"
        case "score_labels" | "score_judgements":
            return "", f"metrics of those {'predictions' if rule == 'score_labels' else 'judgements'}, with intervals"
        case "answer_questions":
            return "", f"{facts['rows']:,} questions answered, temperature {recipe['decoding']['temperature']:g}"
        case "judge_answers":
            who = f"{recipe['model']} against {recipe['against']}"
            return "", f"{who}, judged by {_author(recipe['endpoint'])}: {facts['rows']:,} judgements"
        case _:
            return "", ""


def _costly(chosen):
    """Return what is chosen, and of how many beams or samples."""
    return ("best beam", chosen["beams"]) if chosen["method"] == "beam" else ("closest sample", chosen["samples"])


def _loss(recipe):
    """Return the loss over pairs with a comma behind it; nothing where a model is trained on examples."""
    if "loss" not in recipe:
        return ""
    loss = recipe["loss"]
    return f"DPO beta {loss['beta']:g}, " if loss["kind"] == "dpo" else f"contrastive margin {loss['margin']:g}, "


def _in_order(splits):
    """Return split → what it holds, train first; JSON sorts them by name."""
    return {split: splits[split] for split in tables.SPLITS if split in splits}


def _author(endpoint):
    return endpoint.get("model") or endpoint["serve"]


def draw_lineage(made):
    """Return the picture of what was built from what, raw files and predictions left out; None if it is too large.

    A suite gets a dashed edge from each model that it measures, and from those of its datasets that serve nothing else.
    """
    nodes, edges, measured, datasets, asked = {}, [], [], [], {}
    for key, one in made.items():
        parents = [parent for parent in one["parents"] if parent in made]
        if one["kind"] == "predictions":
            suite, model = one["name"].split("/")
            names = asked.setdefault(suite, {})
            names |= one["recipe"]["datasets"]
            detail = ", ".join(names) if len(names) < 4 else f"{len(names)} datasets"
            title = f"{suite}: {', '.join(names)}"
            nodes[f"suites/{suite}"] = {"kind": "suites", "label": suite, "detail": detail, "title": title}
            measured.append((f"models/{model}", f"suites/{suite}"))
            datasets += [(parent, f"suites/{suite}") for parent in parents if parent.startswith("datasets/")]
        elif one["kind"] == "judgements":
            suite, recipe = one["name"].split("/")[0], one["recipe"]
            kind = "corpora" if any(parent.startswith("corpora/") for parent in parents) else "models"
            detail = f"judged by {_author(recipe['endpoint'])}"
            title = f"{suite}: {', '.join(recipe['criteria'])}, {detail}"
            nodes[f"suites/{suite}"] = {"kind": "suites", "label": suite, "detail": detail, "title": title}
            measured += [(f"{kind}/{recipe[side]}", f"suites/{suite}") for side in ("model", "against")]
            datasets += [(parent, f"suites/{suite}") for parent in parents if parent.startswith("datasets/")]
        elif one["kind"] not in ("answers", "scores"):
            title = f"{one['name']}: {one['long']}"
            nodes[key] = {"kind": one["kind"], "label": one["name"], "detail": one["short"], "title": title}
            edges += [(parent, key) for parent in parents]
    if not 1 < len(nodes) <= MOST_NODES:
        return None
    for key in nodes:
        nodes[key]["href"] = f"#{key}"
    used = {parent for parent, _ in edges}
    measured += ((dataset, suite) for dataset, suite in datasets if dataset not in used)
    return pictures.draw_graph(nodes, edges, list(dict.fromkeys(measured)))


def package_versions(made):
    """Return package → version → how many artefacts were made with it."""
    versions = {}
    for one in made.values():
        for package, version in one["versions"].items():
            versions.setdefault(package, Counter())[version] += 1
    return dict(sorted(versions.items()))


def stale_parents(made):
    """Return (artefact, parent) where the parent is no longer what the artefact was made from."""
    return [
        (key, parent)
        for key, one in made.items()
        for parent, content in one["parents"].items()
        if parent in made and made[parent]["content"] != content
    ]


# ---------------------------------------------------------------- data, training, cost


def dataset_entry(one, leaks, root):
    """Return a dataset's profile with its leakage counts, (split, split, kind) → pairs, and some frames of videos."""
    labels = (one["recipe"]["label_set"] or {"labels": []})["labels"]
    found = Counter((row["split_a"], row["split_b"], row["kind"]) for row in leaks.get(one["name"], []))
    entry = {"name": one["name"], "key": one["key"], "labels": labels, "leaks": sorted(found.items())}
    sheet = root / one["key"] / "frames.jpg"
    if sheet.exists():
        entry |= {"sampled": one["recipe"]["videos"], "sheet": base64.b64encode(sheet.read_bytes()).decode()}
    return entry | {"splits": _in_order(one["facts"]["splits"]), "dev": one["facts"]["dev"]}


def corpus_entry(one, root):
    """Return a corpus' usage, rejects, rows per split, and its first rows."""
    path = root / one["key"]
    rows = read_jsonl(f"{path}.jsonl")
    return {
        "name": one["name"],
        "key": one["key"],
        "rule": one["rule"],
        "url": one["recipe"]["endpoint"].get("url") or one["recipe"].get("judge", {}).get("url"),
        "usage": read_json(f"{path}.usage.json"),
        "rejects": Counter(row["reason"] for row in read_jsonl(f"{path}.rejects.jsonl")),
        "splits": _in_order(Counter(row["split"] for row in rows)),
        "samples": [row | _answers_of(row) for row in rows[:SAMPLES]],
    }


def judging_cost(one, root):
    """Return what the judgements of one model took, as a corpus' entry says it."""
    url = one["recipe"]["endpoint"].get("url")
    return {"name": one["name"], "key": one["key"], "url": url, "usage": read_json(root / f"{one['key']}.usage.json")}


def judged_entry(suite, made, root):
    """Return whether a judged suite compares models or corpora, and its first judgements."""
    mine = [one for one in made.values() if one["kind"] == "judgements" and one["name"].split("/")[0] == suite]
    corpora = any(parent.startswith("corpora/") for one in mine for parent in one["parents"])
    rows = [row for one in mine for row in read_jsonl(root / f"{one['key']}.jsonl") if row["status"] == "ok"]
    return {"kind": "corpora" if corpora else "models", "samples": rows[:SAMPLES]}


def _answers_of(row):
    """Return the texts of a pair by side; nothing of a row that is none."""
    return {side: row[side][0]["content"] for side in ("chosen", "rejected") if side in row}


def loss_entry(one, root):
    """Return what training an adapter or a model came to, with the picture of its losses."""
    rows = read_csv(root / one["key"] / "loss.csv")
    picture = pictures.draw_losses(rows, one["facts"]["best_step"])
    ends = [float(row["loss"]) for row in rows if row["split"] == "train"]
    return {"name": one["name"], "key": one["key"], "picture": picture, "ends": (ends[0], ends[-1]), **one["facts"]}


def total_cost(costs):
    """Return the sum of what all jobs that ask took; `unknown` counts those whose price is not known."""
    usages = [one["usage"] for one in costs]
    totals = {
        key: sum(usage[key] for usage in usages) for key in ("calls", "failed", "prompt_tokens", "completion_tokens")
    }
    totals["cost_usd"] = sum(usage["cost_usd"] or 0 for usage in usages)
    return totals | {"unknown": sum(usage["cost_usd"] is None for usage in usages)}


def row_accounts(made, corpora, root):
    """Return where every row went, per dataset, corpus and training; `missing` counts those that nothing explains."""
    datasets = [one for one in made.values() if one["kind"] == "datasets"]
    given_by = {corpus["key"]: corpus["splits"] for corpus in corpora}
    given_by |= {one["key"]: {split: at["rows"] for split, at in one["facts"]["splits"].items()} for one in datasets}
    accounts = []
    for one in datasets:
        splits = one["facts"]["splits"].values()
        unused = sum(split["left_out_by_limit"] for split in splits)
        given = sum(one["facts"]["rows_in"].values())
        reasons = Counter(row["reason"] for row in read_jsonl(root / one["key"] / "rejects.jsonl"))
        accounts.append(_account(one, given, sum(given_by[one["key"]].values()), reasons, unused))
    for corpus in corpora:
        one = made[corpus["key"]]
        # A pair takes several calls.
        given = one["facts"].get("rows_in", corpus["usage"]["calls"])
        accounts.append(_account(one, given, one["facts"]["rows"], corpus["rejects"]))
    for one in made.values():
        if one["kind"] in ("answers", "judgements"):
            rows = read_jsonl(root / f"{one['key']}.jsonl")
            reasons = Counter(_failure(row) for row in rows if row["status"] != "ok")
            accounts.append(_account(one, len(rows), sum(row["status"] == "ok" for row in rows), reasons))
        if one["rule"] in TRAINERS:
            sources = [parent for parent in one["parents"] if parent in given_by]
            given = sum(given_by[source].get(split, 0) for source in sources for split in ("train", "dev"))
            kept = one["facts"]["n_train"] + one["facts"]["n_dev"]
            reasons = Counter(row["reason"] for row in one["facts"]["dropped"])
            accounts.append(_account(one, given, kept, reasons))
    return accounts


def _failure(row):
    """Return why an answer cannot be judged, or a judgement not be scored."""
    return "not in the form that was asked for" if row["status"] == "unknown" else row.get("reason") or row["raw"]


def _account(one, given, kept, reasons, unused=0):
    rejected = sum(reasons.values())
    account = {"key": one["key"], "name": one["name"], "kind": one["kind"], "given": given, "kept": kept}
    account |= {"unused": unused, "rejected": rejected, "missing": given - kept - unused - rejected}
    return account | {"reasons": sorted(reasons.items(), key=lambda one: -one[1])}


# ---------------------------------------------------------------- the page


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
        "inline": lambda svg, prefix, label: Markup(pictures.inline_svg(svg, prefix, label)),
    }
    style = Markup((LOOKS / "style.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(**page, style=style, draw_key=pictures.draw_key)


def _legible(text, length):
    """Return a text cut at `length`, without control characters and those that turn the direction of writing."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "�", str(text)).strip()
    return text if len(text) <= length else f"{text[:length].rstrip()} …"
