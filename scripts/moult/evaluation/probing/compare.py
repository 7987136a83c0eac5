"""Probes of several models beside each other: paired differences, and a table in the published columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from moult.base.files import derive_seed, read_csv, read_jsonl, write_csv, write_json
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Difference, Probed
from moult.evaluation.association import pearson
from moult.evaluation.leaderboard import MEANS
from moult.evaluation.probing.published import (
    UNNAMED,
    columns_of_leaderboard,
    published_value,
    study_means,
    subfield_means,
)
from moult.evaluation.probing.run import PLAIN

VERSION = 1
# Resamples of test rows for a paired difference.
RESAMPLES = 1000
MEANS_COLUMNS = ("probe", "over", "name", "model", "mean", "datasets", "whose")


def differences(recipe: Recipe, probes: Mapping[tuple[str, ...], str | Path]) -> list[Difference]:
    """Return how much higher a model scores than the one that it is compared with, on the same test rows.

    recipe: pairs [suite, model, against], seed. probes: (suite, model) → path. Both are resampled together, rows of a
    set at a time; p is the share of resamples on the other side of 0, doubled. A suite of several sets has a line
    `weighted_mean`, of the mean over sets weighted by test rows.
    """
    rows: list[Difference] = []
    for suite, model, against in recipe["pairs"]:
        if (suite, model) not in probes or (suite, against) not in probes:
            continue
        ours, theirs = (_mains(read_jsonl(probes[suite, name])) for name in (model, against))
        by_probe: dict[str, list[Any]] = {}
        for key, row in ours.items():
            if key in theirs and theirs[key]["gold"] == row["gold"]:
                seed = derive_seed(recipe["seed"], "differences", *key)
                told = _resampled(row, theirs[key], seed)
                by_probe.setdefault(key[0], []).append((len(row["gold"]), told))
                rows.append(_difference((suite, model, against, key[1], key[0]), len(row["gold"]), told))
        for probe, parts in by_probe.items():
            if len(parts) > 1:
                n = sum(size for size, _ in parts)
                whole = sum(size / n * told for size, told in parts)
                rows.append(_difference((suite, model, against, "weighted_mean", probe), n, whole))
    return rows


def _mains(rows):
    """Return (probe, dataset) → the line of the largest portion, with the runs of the last layer alone."""
    found: dict[tuple[str, str], Probed] = {}
    for row in rows:
        key = row["probe"], row["dataset"]
        if key not in found or row["portion"] > found[key]["portion"]:
            plain = [one for one in row["runs"] if one["control"] == PLAIN]
            found[key] = row | {"runs": [one for one in plain if one["layer"] == plain[-1]["layer"]]}
    return found


def _resampled(ours, theirs, seed):
    """Return the difference of the mean scores over seeds, first of all rows, then of each resample."""
    import numpy as np

    n = len(ours["gold"])
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    counts = np.vstack([np.ones(n), drawn]).astype(float)
    return _scores(ours, counts) - _scores(theirs, counts)


def _scores(row, counts):
    import numpy as np

    gold, found = np.asarray(row["gold"], dtype=float), []
    for one in row["runs"]:
        pred = np.asarray(one["pred"], dtype=float)
        if row["labels"] == 1:
            found.append(np.nan_to_num(pearson(gold, pred, counts)))
            continue
        truth, guess = (values[:, None] == np.arange(row["labels"]) for values in (gold, pred))
        hits, both = counts @ (truth & guess), counts @ truth + counts @ guess
        occurs = both > 0
        f1 = np.divide(2 * hits, both, out=np.zeros_like(hits), where=occurs)
        found.append(f1.sum(axis=1) / occurs.sum(axis=1))
    return np.mean(found, axis=0)


def _difference(place, n, told):
    import numpy as np

    value, draws = float(told[0]), told[1:]
    low, high = np.quantile(draws, [0.025, 0.975])
    p = 2 * min(np.mean(draws <= 0), np.mean(draws >= 0))
    names = dict(zip(("suite", "model", "against", "dataset", "method"), place, strict=True))
    # As many resamples as there are cannot tell a smaller one.
    p = max(1 / RESAMPLES, min(1.0, float(p)))
    told = {"difference": value, "ci_low": min(float(low), value), "ci_high": max(float(high), value), "p_mcnemar": p}
    return cast(Difference, names | {key: round(number, 6) for key, number in told.items()} | {"n": n})


# ---------------------------------------------------------------- the leaderboard


def leaderboard(
    recipe: Recipe, scores: Sequence[Mapping[str, str]], sets: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows in the published leaderboard's columns, and means over subfields and over phenomena.

    scores: rows of the suite's models. sets: dataset → subfield, phenomenon, type. Published models have a value where
    the table has one of the dataset at the portion that the suite names. All means run over the datasets that all have
    a value of; where published models lack some, ours stand a second time, over the fewer datasets that these have.

    recipe: suite, published (models, portion).
    """
    rows, means = [], []
    theirs, portion = recipe["published"]["models"], recipe["published"]["portion"]
    own = [row for row in scores if row["metric"] == "score" and not row["task"] and row["dataset"] not in MEANS]
    models = list(dict.fromkeys(row["model"] for row in own))
    for probe in dict.fromkeys(row["method"] for row in own):
        values = {model: {} for model in [*models, *theirs]}
        for row in own:
            if row["method"] == probe:
                values[row["model"]][row["dataset"]] = float(row["value"])
        for model in theirs:
            values[model] = {name: published_value(model, portion, name) for name in sets}
        for name, one in sets.items():
            first = [name, one["subfield"] or UNNAMED, one["phenomenon"] or UNNAMED, one["type"], portion, probe]
            line = [*first, *(values[model].get(name) for model in values)]
            rows.append(dict(zip(columns_of_leaderboard(values), line, strict=True)))
        for group in [models, [*models, *theirs]] if theirs else [models]:
            shared = [name for name in sets if all(values[model].get(name) is not None for model in group)]
            whose = "ours" if group == models else "beside published"
            for over in ("subfield", "phenomenon"):
                places = {name: sets[name][over] or UNNAMED for name in shared}
                for model in group:
                    found = subfield_means({name: values[model][name] for name in shared}, places)
                    for place, (mean, count) in found.items():
                        line = [probe, over, place, model, round(mean, 6), count, whose]
                        means.append(dict(zip(MEANS_COLUMNS, line, strict=True)))
    return rows, means


def run(job: Job) -> None:
    """Do the job of compare_probes."""
    scores = [row for path in job.inputs.scores for row in read_csv(path)]
    sets: dict[str, dict[str, Any]] = {}
    for row in read_jsonl(job.inputs.probes[0]):
        sets.setdefault(row["dataset"], {key: row[key] for key in ("subfield", "phenomenon", "type", "labels", "rows")})
    rows, means = leaderboard(job.recipe, scores, sets)
    beside = job.recipe["published"]
    told = {"sets": sets, "means": means, "published": beside, "study": study_means() if beside["study"] else []}
    write_csv(job.outputs.leaderboard, rows, list(rows[0]))
    write_csv(job.outputs.means, means, MEANS_COLUMNS)
    write_json(job.outputs.whole, told)
    job.facts = {"sets": len(sets), "models": len(job.inputs.scores)}
