"""What the suites of an experiment say together: tidy scores, how alike they rank models, what merges gained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moult.base.files import derive_seed
from moult.base.rows import Recipe
from moult.evaluation.association import kendall
from moult.evaluation.kinds import SuiteKind
from moult.evaluation.leaderboard import MEANS
from moult.evaluation.metrics import Estimate, mean_of

if TYPE_CHECKING:
    import numpy as np

# Raise when the same scores would now be related otherwise.
VERSION = 1
DRAWS, PERMUTATIONS = 500, 2000
# Of fewer models all orders are tried.
EXACT = 7
TIDY = "suite kind method dataset subfield phenomenon model metric value ci_low ci_high n".split()
GROUPS = "measure suite method over name model value ci_low ci_high datasets".split()
TAUS = "first second tau_b ci_low ci_high p models datasets_first datasets_second".split()
SERIES = "series parameter value model role suite method score ci_low ci_high".split()
CHANGES = "merge parent suite method dataset difference ci_low ci_high p change".split()
# Measures whose rankings are compared, each with each; phenomena beyond are compared with the means of suites alone.
MOST_MEASURES = 24


def tidy(
    rows: Sequence[dict[str, str]], kinds: Iterable[SuiteKind], sets: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return a row (TIDY) per suite, dataset, method and model: the headline metric of its kind, no means.

    rows: of summary.csv. sets: suite → dataset → what probing sets say of themselves: subfield, phenomenon.
    """
    found = []
    for kind in kinds:
        own = [row for row in rows if row["method"] in kind.methods]
        shown = [row for row in own if not row["task"]] if kind.related else kind.panels(own)
        for row in shown:
            # A group of tasks is a mean as well.
            if row["metric"] == kind.headline.metric and row["dataset"] not in MEANS and row["task"] != "group":
                place = sets.get(row["suite"], {}).get(row["dataset"], {})
                told: dict[str, Any] = {key: row[key] for key in ("suite", "method", "dataset", "model", "metric")}
                told |= {"kind": kind.title, "subfield": place.get("subfield", "")}
                told |= {"phenomenon": place.get("phenomenon", ""), "value": float(row["value"]), "n": int(row["n"])}
                told |= {end: float(row[end]) if row[end] else None for end in ("ci_low", "ci_high")}
                found.append({key: told[key] for key in TIDY})
    return found


class Measures:
    """Means of models over groups of datasets: of each suite and method, of each subfield and phenomenon, and what
    stands alone.

    higher: kind's title → whether a higher score is better. A measure is over the models that have all its datasets.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], higher: Mapping[str, bool]) -> None:
        self.higher = higher
        self.parts: dict[str, tuple[tuple[str, str, str, str], list[str], bool]] = {}
        self.cells: dict[tuple[str, str, str], dict[str, Any]] = {}
        of_suite: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            of_suite.setdefault((row["suite"], row["method"]), []).append(row)
            self.cells.setdefault((row["suite"], row["method"], row["dataset"]), {})[row["model"]] = row
        methods = {suite: len([key for key in of_suite if key[0] == suite]) for suite, _ in of_suite}
        for (suite, method), mine in of_suite.items():
            label = suite if methods[suite] == 1 else f"{suite} ({method})"
            names, up = list(dict.fromkeys(row["dataset"] for row in mine)), higher[mine[0]["kind"]]
            self._add(label, (suite, method, "suite", ""), names, up)
            groups: dict[tuple[str, str], list[str]] = {}
            for row in mine:
                for over in ("subfield", "phenomenon"):
                    if row[over] and row["dataset"] not in groups.setdefault((over, row[over]), []):
                        groups[over, row[over]].append(row["dataset"])
            for (over, name), own in sorted(groups.items(), key=lambda pair: (pair[0][0] != "subfield", pair[0])):
                self._add(f"{label}: {name}", (suite, method, over, name), own, up)
            if not groups and len(names) > 1:
                for name in names:
                    self._add(f"{label}: {name}", (suite, method, "dataset", name), [name], up)

    def _add(self, label, place, datasets, up):
        # A subfield and a phenomenon may have one name.
        label = label if label not in self.parts else f"{label} ({place[2]})"
        self.parts[label] = place, datasets, up

    def models(self, label: str) -> list[str]:
        """Return the models that have all datasets of a measure."""
        (suite, method, *_), datasets, _ = self.parts[label]
        columns = [self.cells[suite, method, name] for name in datasets]
        return [model for model in columns[0] if all(model in column for column in columns)]

    def groups(self) -> list[dict[str, Any]]:
        """Return a row (GROUPS) per measure and model, the best model of a measure first."""
        found = []
        for label, ((suite, method, over, name), datasets, up) in self.parts.items():
            rows: list[dict[str, Any]] = []
            for model in self.models(label):
                own = [self.cells[suite, method, one][model] for one in datasets]
                mean = mean_of([{"mean": _estimate(one)} for one in own])["mean"]
                row = {"measure": label, "suite": suite, "method": method, "over": over, "name": name, "model": model}
                rows.append(row | mean.as_row() | {"datasets": len(datasets)})
            found += sorted(rows, key=lambda row: -row["value"] if up else row["value"])
        return [{key: row[key] for key in GROUPS} for row in found]

    def compared(self) -> list[tuple[str, str]]:
        """Return the pairs of measures whose rankings are compared."""
        first = [label for label, (place, *_) in self.parts.items() if place[2] in ("suite", "subfield")]
        first += [label for label, (place, *_) in self.parts.items() if place[2] == "dataset"]
        first = first[:MOST_MEASURES]
        suites = [label for label in first if self.parts[label][0][2] == "suite"]
        others = [label for label in self.parts if label not in first]
        return [*itertools.combinations(first, 2), *itertools.product(suites, others)]

    def drawn(self, label: str, models: Sequence[str], seed: int) -> np.ndarray:
        """Return the means of models, (1 + DRAWS, models): of all datasets, and of datasets drawn with replacement.

        Datasets of one suite are drawn together, so that a subfield and its suite are drawn alike. Higher is better.
        """
        import numpy as np

        (suite, method, *_), datasets, up = self.parts[label]
        table = np.array([[self.cells[suite, method, one][model]["value"] for model in models] for one in datasets])
        chances = [np.random.default_rng(derive_seed(seed, suite, one)).poisson(1.0, DRAWS) for one in datasets]
        counts = np.vstack([np.ones(len(datasets)), np.array(chances).T]).astype(float)
        # Where none was drawn, all count.
        counts[counts.sum(axis=1) == 0] = 1
        return (counts @ table) / counts.sum(axis=1, keepdims=True) * (1 if up else -1)


def _estimate(row):
    return Estimate(row["value"], None if row["ci_low"] is None else (row["ci_low"], row["ci_high"]))


def taus(measures: Measures, seed: int) -> list[dict[str, Any]]:
    """Return a row (TAUS) per two measures: Kendall's tau-b of the rankings that they give of what both have.

    Its interval is of datasets drawn with replacement, None where both measures are of one dataset; p is that of a
    permutation test, two-sided, exact for up to EXACT models. Nothing is said of fewer than three models.
    """
    import numpy as np

    found = []
    for first, second in measures.compared():
        theirs = set(measures.models(second))
        models = [model for model in measures.models(first) if model in theirs]
        if len(models) < 3:
            continue
        x, y = (measures.drawn(label, models, seed) for label in (first, second))
        (value,) = kendall(x[0], y[0], np.ones((1, len(models))))
        if not np.isfinite(value):
            continue
        sizes = [len(measures.parts[label][1]) for label in (first, second)]
        row = {"first": first, "second": second, "tau_b": round(float(value), 6), "ci_low": None, "ci_high": None}
        if max(sizes) > 1:
            low, high = np.quantile(_many_taus(x[1:], y[1:]), [0.025, 0.975])
            row |= {"ci_low": round(min(float(low), value), 6), "ci_high": round(max(float(high), value), 6)}
        row |= {"p": round(permutation_p(x[0], y[0], seed), 6), "models": len(models)}
        found.append(row | dict(zip(("datasets_first", "datasets_second"), sizes, strict=True)))
    return found


def _many_taus(x, y):
    """Return tau-b per draw, (draws); 0 where it is undefined. x, y: (draws, models)."""
    import numpy as np

    upper = np.triu_indices(x.shape[1], 1)
    a, b = (np.sign(one[:, upper[0]] - one[:, upper[1]]) for one in (x, y))
    below = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), below, out=np.zeros(len(a)), where=below > 0)


def permutation_p(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Return how often a random order of models is ranked as alike as, or more than, the true one, or as unlike."""
    import numpy as np

    n = len(x)
    a, b = (np.sign(one[:, None] - one[None]) for one in (x, y))
    true = abs((a * b).sum()) - 1e-9
    if n <= EXACT:
        orders: Iterable[Any] = itertools.permutations(range(n))
        hits = [abs((a * b[np.ix_(order, order)]).sum()) >= true for order in orders]
        return float(np.mean(hits))
    random = np.random.default_rng(seed)
    drawn = (random.permutation(n) for _ in range(PERMUTATIONS))
    count = sum(abs((a * b[np.ix_(order, order)]).sum()) >= true for order in drawn)
    return float((1 + count) / (1 + PERMUTATIONS))


# ---------------------------------------------------------------- merges


def series(groups: Sequence[Mapping[str, Any]], merges: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows (SERIES): the mean of each suite against a parameter of merges that differ in it, and its parents.

    merges: model → method, base, parents (names), parameters (name → number). Merges of one method, base and
    parents are a series when a parameter has several values among them and all others stay, or follow it, as two
    weights do that sum to 1; of a grid each line along each parameter is one.
    """
    families: dict[tuple[Any, ...], list[str]] = {}
    for model, one in merges.items():
        families.setdefault((one["method"], one["base"], *one["parents"]), []).append(model)
    of_suite = [row for row in groups if row["over"] == "suite"]
    found = []
    for (method, _, *parents), models in families.items():
        values: dict[str, dict[str, float]] = {}
        for model in models:
            for name, number in merges[model]["parameters"].items():
                values.setdefault(name, {})[model] = number
        varying = [name for name, of in values.items() if len(set(of.values())) > 1]
        done: list[str] = []
        for name in varying:
            if any(_follows(values[name], values[one]) and _follows(values[one], values[name]) for one in done):
                continue
            done.append(name)
            following = [one for one in varying if one != name and _follows(values[one], values[name])]
            fixed = [one for one in varying if one != name and one not in following]
            lines: dict[tuple[Any, ...], list[str]] = {}
            for model in values[name]:
                lines.setdefault(tuple(values[one].get(model) for one in fixed), []).append(model)
            for at, own in lines.items():
                if len({values[name][model] for model in own}) < 2:
                    continue
                told = [f"{method} of {' and '.join(parents)}"]
                told += [f"{one} {value:g}" for one, value in zip(fixed, at, strict=True) if value is not None]
                label = {"series": ", ".join(told), "parameter": ", ".join([name, *following])}
                for row in of_suite:
                    role = "merge" if row["model"] in own else "parent" if row["model"] in parents else None
                    if role:
                        line = label | {"value": values[name][row["model"]] if role == "merge" else None, "role": role}
                        line |= {key: row[key] for key in ("model", "suite", "method", "ci_low", "ci_high")}
                        found.append({key: (line | {"score": row["value"]})[key] for key in SERIES})
    return found


def _follows(one, other):
    """Whether a parameter has one value for each value of another. one, other: model → value."""
    seen: dict[float, float] = {}
    return one.keys() == other.keys() and all(seen.setdefault(other[model], one[model]) == one[model] for model in one)


def changes(
    rows: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, str]],
    merges: Mapping[str, Mapping[str, Any]],
    higher: Mapping[str, bool],
) -> list[dict[str, Any]]:
    """Return rows (CHANGES): what each merge gained and lost against each parent and its base, dataset by dataset.

    A paired difference is taken where the suite has one, with its p; else that of two scores, with the interval of
    independent ones (Zou and Donner 2008). It is a gain or a loss where its interval is on one side of 0. rows: TIDY.
    """
    paired: dict[tuple[str, ...], dict[str, float]] = {}
    for row in differences:
        told = {key: float(row[key]) for key in ("difference", "ci_low", "ci_high", "p_mcnemar")}
        place = row["suite"], row["method"], row["dataset"]
        paired[(*place, row["model"], row["against"])] = told
        turned = {"difference": -told["difference"], "ci_low": -told["ci_high"], "ci_high": -told["ci_low"]}
        paired[(*place, row["against"], row["model"])] = told | turned
    cells: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["suite"], row["method"], row["dataset"]), {})[row["model"]] = row
    found = []
    for merge, one in merges.items():
        parents = list(dict.fromkeys([*one["parents"], *([one["base"]] if one["base"] else [])]))
        for place, column in cells.items():
            for parent in parents:
                if merge in column and parent in column:
                    told = paired.get((*place, merge, parent)) or _apart(column[merge], column[parent])
                    line = dict(zip(("suite", "method", "dataset"), place, strict=True)) | told
                    line |= {"merge": merge, "parent": parent, "p": told.get("p_mcnemar")}
                    line["change"] = _change(told, higher[column[merge]["kind"]])
                    found.append({key: line[key] for key in CHANGES})
    return found


def _apart(ours, theirs):
    value = ours["value"] - theirs["value"]
    told = {"difference": round(value, 6), "ci_low": None, "ci_high": None}
    if ours["ci_low"] is None or theirs["ci_low"] is None:
        return told
    below = math.hypot(ours["value"] - ours["ci_low"], theirs["ci_high"] - theirs["value"])
    above = math.hypot(ours["ci_high"] - ours["value"], theirs["value"] - theirs["ci_low"])
    return told | {"ci_low": round(value - below, 6), "ci_high": round(value + above, 6)}


def _change(told, up):
    if told["ci_low"] is None or told["ci_low"] <= 0 <= told["ci_high"] or told.get("p_mcnemar", 0) >= 0.05:
        return "even"
    return "gained" if (told["difference"] > 0) == up else "lost"


def related(
    recipe: Recipe,
    rows: Sequence[dict[str, str]],
    differences: Sequence[Mapping[str, str]],
    sets: Mapping[str, Mapping[str, Any]],
    kinds: Iterable[SuiteKind],
) -> dict[str, list[dict[str, Any]]]:
    """Return all tables by the names of their files: scores, groups, taus, parameters, changes.

    recipe: merges (see `series`), seed.
    """
    kinds = list(kinds)
    higher = {kind.title: kind.headline.higher_is_better for kind in kinds}
    scores = tidy(rows, kinds, sets)
    measures = Measures(scores, higher)
    groups = measures.groups()
    found = {"scores": scores, "groups": groups, "taus": taus(measures, recipe["seed"])}
    found["parameters"] = series(groups, recipe["merges"])
    return found | {"changes": changes(scores, differences, recipe["merges"], higher)}
