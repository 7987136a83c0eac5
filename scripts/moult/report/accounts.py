"""Entries of the report: where every row went, what answers cost, how training went."""

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.files import read_csv, read_json, read_jsonl
from moult.base.reasons import kinds
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.suites import KINDS
from moult.inference.journal import JOURNALS
from moult.inference.recipes import spending_folder
from moult.inference.spending import counts_in, job_of, recount
from moult.objectives import loss_of
from moult.report import plots
from moult.report.lineage import Artefact, in_order

SAMPLES = 3


def dataset_entry(one: Artefact, leaks: Mapping[str, list[dict[str, str]]], root: Path) -> dict[str, Any]:
    """Return a dataset's profile with its leakage counts, (split, split, kind) → pairs, and some frames of videos."""
    labels = (one["recipe"]["label_set"] or {"labels": []})["labels"]
    found = Counter((row["split_a"], row["split_b"], row["kind"]) for row in leaks.get(one["name"], []))
    entry = {"name": one["name"], "key": one["key"], "labels": labels, "leaks": sorted(found.items())}
    sheet = root / one["key"] / "frames.jpg"
    if sheet.exists():
        entry |= {"sampled": one["recipe"]["videos"], "sheet": base64.b64encode(sheet.read_bytes()).decode()}
    return entry | {"splits": in_order(one["facts"]["splits"]), "dev": one["facts"]["dev"]}


def corpus_entry(one: Artefact, root: Path) -> dict[str, Any]:
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
        "splits": in_order(Counter(row["split"] for row in rows)),
        # What is told of pairs beside their number.
        "told": one["long"] if "won" in one["facts"] else "",
        "samples": [row | _answers_of(row) for row in rows[:SAMPLES]],
    }


def asking_cost(one: Artefact, root: Path) -> dict[str, Any]:
    """Return the usage of a measurement that asks an endpoint, in the form of a corpus' entry."""
    url = one["recipe"]["endpoint"].get("url")
    usage = read_json(root / f"{one['key']}.usage.json")
    return {"name": one["name"], "key": one["key"], "rule": one["rule"], "url": url, "usage": usage}


def _answers_of(row):
    """Return the texts of a pair by side, and the question of a row that has its prompt alone."""
    asked = {} if "question" in row else {"question": row["prompt"][-1]["content"]}
    return asked | {side: row[side][0]["content"] for side in ("chosen", "rejected") if side in row}


def loss_entry(one: Artefact, root: Path) -> dict[str, Any]:
    """Return the report of training an adapter or a model, with the picture of its losses."""
    rows = read_csv(root / one["key"] / "loss.csv")
    picture = plots.draw_losses(rows, one["facts"]["best_step"])
    ends = [float(row["loss"]) for row in rows if row["split"] == "train"]
    loss = one["recipe"].get("loss")
    entry = {"name": one["name"], "key": one["key"], "picture": picture, "ends": (ends[0], ends[-1]), **one["facts"]}
    return entry | {"measures": loss_of(loss).measures if loss else {}}


def add_payments(costs: Iterable[dict[str, Any]], experiment: str) -> float:
    """Add to each entry `paid`: the dollars that an experiment has paid for all answers of the job, those among them
    that others have superseded since. Return what it has paid for jobs that the config names no more.

    None where the price is unknown; where no journal is at hand, it is the cost of the answers that are there.
    """
    folder = spending_folder(experiment)
    recount(folder, JOURNALS)
    counts = counts_in(folder)
    for one in costs:
        journal = JOURNALS / one["rule"] / f"{one['name']}.sqlite"
        known = one["usage"]["cost_usd"]
        counted = counts.pop(job_of(journal), 0.0 if journal.exists() else known)
        one["paid"] = None if known is None and not counted else counted
    return sum(counts.values())


def total_cost(costs: Iterable[Mapping[str, Any]], beside: float = 0.0) -> dict[str, Any]:
    """Return the sum of what all jobs that ask took; `unknown` counts those whose price is not known.

    beside: dollars paid for other jobs; see `add_payments`.
    """
    costs = list(costs)
    usages = [one["usage"] for one in costs]
    totals = {
        key: sum(usage[key] for usage in usages) for key in ("calls", "failed", "prompt_tokens", "completion_tokens")
    }
    totals["cost_usd"] = sum(usage["cost_usd"] or 0 for usage in usages)
    totals |= {"beside": beside, "paid": beside + sum(one["paid"] or 0 for one in costs)}
    return totals | {"unknown": sum(one["paid"] is None for one in costs)}


def row_accounts(
    made: Mapping[str, Artefact], corpora: Iterable[Mapping[str, Any]], root: Path, kinds: Sequence[SuiteKind] = KINDS
) -> list[dict[str, Any]]:
    """Return where every row went, per dataset, corpus and training; `missing` counts those that nothing explains."""
    datasets = [one for one in made.values() if one["kind"] == "datasets"]
    given_by = {corpus["key"]: corpus["splits"] for corpus in corpora}
    given_by |= {one["key"]: {split: at["rows"] for split, at in one["facts"]["splits"].items()} for one in datasets}
    accounts, rejecting = [], [folder for kind in kinds for folder in kind.rejecting]
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
        if one["kind"] in rejecting:
            rows = read_jsonl(root / f"{one['key']}.jsonl")
            reasons = Counter(_failure(row) for row in rows if row["status"] != "ok")
            accounts.append(_account(one, len(rows), sum(row["status"] == "ok" for row in rows), reasons))
        if "n_train" in one["facts"]:
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
    return account | {"reasons": list(kinds(Counter(reasons).elements()).items())}
