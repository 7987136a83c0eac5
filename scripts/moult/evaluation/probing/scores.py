"""Scores of probes: macro-F1 or Pearson over seeds, selectivity, description length; means by subfield and kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from moult.base.files import read_jsonl, write_csv
from moult.base.rows import Recipe
from moult.base.stage import Job
from moult.base.suite_rows import Probed, Score
from moult.evaluation import metrics
from moult.evaluation.association import pearson
from moult.evaluation.metrics import Estimate
from moult.evaluation.probing.published import UNNAMED
from moult.evaluation.probing.run import PLAIN
from moult.evaluation.scores import COLUMNS

if TYPE_CHECKING:
    import numpy as np

# Raise when the same probes would now be scored otherwise.
VERSION = 1
RESAMPLES = 1000
# Half the width of a 95% interval of a mean over so many seeds, in standard errors (Student's t, 2 to 10 seeds).
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def macro_f1(gold: Sequence[int], pred: Sequence[int]) -> float:
    """Return the mean F1 over the classes that occur in gold or pred, as scikit-learn has it without `labels`."""
    import numpy as np

    truth, guess = np.asarray(gold), np.asarray(pred)
    classes = np.union1d(truth, guess)
    hits = np.array([np.sum((truth == one) & (guess == one)) for one in classes])
    both = np.array([np.sum(truth == one) + np.sum(guess == one) for one in classes])
    return float(np.mean(2 * hits / both))


class Resamples:
    """How often each test row is drawn in RESAMPLES resamples, one drawing for all probes of a set.

    Two rows that were not seen may be drawn, too: one that a probe gets right, and one that it gets wrong, each of a
    label drawn from those of the rows. So rows that are all right leave a width.
    """

    def __init__(self, gold: np.ndarray, labels: int, seed: int) -> None:
        import numpy as np

        random, n = np.random.default_rng(seed), len(gold)
        drawn = random.multinomial(n, np.full(n + 2, 1 / (n + 2)), size=RESAMPLES)
        self.counts = np.vstack([np.ones(n), drawn[:, :n]]).astype(np.float32)
        given = np.append(0, random.choice(gold, RESAMPLES))
        said = (given + 1 + np.append(0, random.integers(max(1, labels - 1), size=RESAMPLES))) % max(2, labels)
        right, wrong = (np.append(0, drawn[:, n + which]) for which in (0, 1))
        classes = np.arange(max(2, labels))
        self.truth = (gold[:, None] == classes).astype(np.float32)
        self.right = right[:, None] * (given[:, None] == classes)
        self.missed, self.taken = (wrong[:, None] * (one[:, None] == classes) for one in (given, said))
        self.support = self.counts @ self.truth + self.right + self.missed

    def macro_f1(self, pred: np.ndarray) -> np.ndarray:
        """Return macro-F1 over the classes that occur, of all rows and then of each resample."""
        import numpy as np

        guess = (np.asarray(pred)[:, None] == np.arange(self.truth.shape[1])).astype(np.float32)
        hits = self.counts @ (self.truth * guess) + self.right
        both = self.support + self.counts @ guess + self.right + self.taken
        occurs = both > 0
        f1 = np.divide(2 * hits, both, out=np.zeros(both.shape), where=occurs)
        return f1.sum(axis=1) / np.maximum(1, occurs.sum(axis=1))


def estimate(
    row: Probed, runs: Sequence[Mapping[str, Any]], places: np.ndarray, resamples: Resamples | None
) -> Estimate:
    """Return the mean score over the runs of a set, one per seed, on some of its test rows.

    Its interval joins that of the mean over resampled test rows, or of a correlation Fisher's, and that of the mean
    over seeds (Student's t), as root of summed squares.
    """
    import numpy as np

    said = [np.asarray(one["pred"])[places] for one in runs]
    if resamples is None:
        return _over_seeds([_correlation(np.asarray(row["gold"])[places], one) for one in said])
    scores = [resamples.macro_f1(one) for one in said]
    mean = np.mean(scores, axis=0)
    value, draws = float(mean[0]), mean[1:] - mean[1:].mean()
    low, high = np.quantile(draws, [0.025, 0.975])
    return _over_seeds(
        [Estimate(float(one[0]), (float(one[0] + low), float(one[0] + high))) for one in scores], 0.0, value
    )


def _over_seeds(parts, lowest=-1.0, value=None):
    """Return the mean of estimates on the same rows; ends of their intervals are averaged, the seeds' spread joins."""
    import numpy as np

    values = [one.value for one in parts]
    mean = float(np.mean(values)) if value is None else value
    if any(one.interval is None for one in parts):
        return Estimate(mean, None)
    apart = 0.0
    if len(values) > 1:
        student = STUDENT[len(values) - 2] if len(values) < len(STUDENT) + 2 else metrics.Z
        apart = student * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    below, above = (abs(mean - float(np.mean([one.interval[end] for one in parts]))) for end in (0, 1))
    return Estimate(mean, (max(lowest, mean - math.hypot(below, apart)), min(1.0, mean + math.hypot(above, apart))))


def _correlation(gold, pred):
    """Return Pearson's correlation with Fisher's interval (1921); of equal predictions it is none at all, 0."""
    import numpy as np

    n = len(gold)
    (value,) = pearson(gold.astype(float), pred.astype(float), np.ones((1, n))) if n else (0.0,)
    value = float(value) if np.isfinite(value) else 0.0
    if n < 4:
        return Estimate(value, None)
    middle, half = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value))), metrics.Z / math.sqrt(n - 3)
    return Estimate(value, (math.tanh(middle - half), math.tanh(middle + half)))


def less(one: Estimate, other: Estimate) -> Estimate:
    """Return a difference of estimates; its interval is Zou and Donner's (2008), as of independent ones."""
    value = one.value - other.value
    if one.interval is None or other.interval is None:
        return Estimate(value, None)
    below = math.hypot(one.value - one.interval[0], other.interval[1] - other.value)
    above = math.hypot(one.interval[1] - one.value, other.value - other.interval[0])
    return Estimate(value, (value - below, value + above))


def set_metrics(row: Probed, layer: int, seed: int) -> dict[str, tuple[int, Estimate]]:
    """Return metric → (test rows, Estimate) of a line of results at one layer.

    score, and that of seen and unseen inputs; per control its score, and the selectivity, which is the score less that;
    description length and the uniform code's in bits, and how many times the one is shorter.
    """
    import numpy as np

    seen = np.asarray(row["seen"], dtype=bool)
    parts = {"score": np.ones(len(seen), dtype=bool), "score_seen": seen, "score_unseen": ~seen}
    by_control = _by_control(row, layer)
    plain, found = by_control.pop(PLAIN), {}
    drawn = {name: _resamples(row, places, seed) for name, places in parts.items()}
    for name, places in parts.items():
        if places.any():
            found[name] = int(places.sum()), estimate(row, plain, places, drawn[name])
    n, score = found["score"]
    for control, runs in by_control.items():
        beside = estimate(row, runs, parts["score"], drawn["score"])
        found[f"control_{control}"] = n, beside
        found[f"selectivity_{control}"] = n, less(score, beside)
    if plain[0]["bits"] is not None and row["uniform_bits"] is not None:
        bits = [one["bits"] for one in plain]
        mean, uniform = sum(bits) / len(bits), row["uniform_bits"]
        found["description_bits"] = n, Estimate(mean, None)
        found["uniform_bits"] = n, Estimate(uniform, None)
        found["compression"] = n, Estimate(uniform / max(mean, 1e-9), None)
    return found


def _by_control(row, layer):
    found: dict[str, list[dict[str, Any]]] = {}
    for one in row["runs"]:
        if one["layer"] == layer:
            found.setdefault(one["control"], []).append(one)
    return found


def _resamples(row, places, seed):
    """Return the resamples of some test rows; None of a regression, and of no rows."""
    import numpy as np

    gold = np.asarray(row["gold"])[places]
    return None if row["labels"] == 1 or not len(gold) else Resamples(gold, row["labels"], seed)


def score_probes(recipe: Recipe, rows: Sequence[Probed]) -> list[Score]:
    """Return score rows (see COLUMNS) of one model under one suite, a method per probe.

    Per set the metrics at the last of its layers and the largest portion; as task `layer 3` or `portion 0.5` the score
    of each other one. Then both means over all sets, and plain means over those of a subfield or a phenomenon, at
    another layer or portion: as datasets `subfield: …`, `layer 3`, with `subfield` or `layer` as their task.

    recipe: model, suite, limit, seed.
    """
    import numpy as np

    lines: list[dict[str, Any]] = []
    for probe in dict.fromkeys(row["probe"] for row in rows):
        mine = [row for row in rows if row["probe"] == probe]
        largest = max(row["portion"] for row in mine)
        main: dict[str, tuple[Probed, dict[str, tuple[int, Estimate]]]] = {}
        others: dict[str, list[tuple[int, Estimate]]] = {}
        for row in mine:
            layers = list(dict.fromkeys(one["layer"] for one in row["runs"]))
            for layer in layers:
                if row["portion"] == largest and layer == layers[-1]:
                    told = main[row["dataset"]] = row, set_metrics(row, layer, recipe["seed"])
                    lines += _lines(probe, row["dataset"], "", told[1])
                    continue
                if row["portion"] < largest and layer != layers[-1]:
                    continue
                task = f"layer {layer}" if row["portion"] == largest else f"portion {row['portion']:g}"
                whole = np.ones(len(row["gold"]), dtype=bool)
                drawn = _resamples(row, whole, recipe["seed"])
                score = len(whole), estimate(row, _by_control(row, layer)[PLAIN], whole, drawn)
                others.setdefault(task, []).append(score)
                lines += _lines(probe, row["dataset"], task, {"score": score})
        lines += _means(probe, main)
        for task, scores in others.items():
            n = sum(n for n, _ in scores)
            mean = metrics.mean_of([{"score": one} for _, one in scores])
            lines += _lines(probe, task, task.split()[0], {"score": (n, mean["score"])})
    shared = {"model": recipe["model"], "suite": recipe["suite"], "limit": recipe["limit"]}
    return cast(list[Score], [{column: (shared | line).get(column) for column in COLUMNS} for line in lines])


def _means(probe, main):
    groups: dict[tuple[str, str], list[Any]] = {}
    for row, found in main.values():
        groups.setdefault(("subfield", row["subfield"] or UNNAMED), []).append(found)
        groups.setdefault(("phenomenon", row["phenomenon"] or UNNAMED), []).append(found)
    whole = [found for _, found in main.values()]
    sizes = [found["score"][0] for found in whole]
    yield from _mean(probe, "mean", "", whole)
    yield from _mean(probe, "weighted_mean", "", whole, sizes)
    for (what, name), found in sorted(groups.items()):
        yield from _mean(probe, f"{what}: {name}", what, found)


def _mean(probe, mean, task, found, sizes=None):
    n = sum(one["score"][0] for one in found)
    means = metrics.mean_of([{name: told for name, (_, told) in one.items()} for one in found], sizes)
    # Of sets of different sizes the mean length says nothing.
    told = {name: (n, one) for name, one in means.items() if not name.endswith("_bits")}
    yield from _lines(probe, mean, task, told)


def _lines(probe, dataset, task, found):
    for metric, (n, told) in found.items():
        yield {"dataset": dataset, "task": task, "method": probe, "metric": metric, "n": n} | told.as_row()


def run(job: Job) -> None:
    """Do the job of score_probes."""
    write_csv(job.outputs.scores, score_probes(job.recipe, list(read_jsonl(job.inputs.probes))), COLUMNS)
