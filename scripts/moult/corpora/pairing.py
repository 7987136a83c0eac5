"""Which of the scored samples of a prompt are preferred to which: groups of samples, their best and worst, and ties."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from moult.base.files import digest
from moult.base.rows import Recipe
from moult.base.sample_rows import ScoredSample
from moult.corpora.shares import is_of_share

# A corpus of scores, and one of its samples.
Entry = tuple[str, ScoredSample]


@dataclass
class Group:
    """The best and the worst of the samples of a prompt from one corpus, or from several, and whether all are equal."""

    best: Entry | None = None
    worst: Entry | None = None
    equal: bool = True

    def add(self, recipe: Recipe, uid: str, entry: Entry) -> None:
        """Take one more sample into account."""
        if self.best is None or self.worst is None:
            self.best = self.worst = entry
            return
        self.equal = self.equal and entry[1]["answer"] == self.best[1]["answer"]
        if goes_before(recipe, uid, entry, self.best, True):
            self.best = entry
        if goes_before(recipe, uid, entry, self.worst, False):
            self.worst = entry


def goes_before(recipe: Recipe, uid: str, entry: Entry, other: Entry, best: bool) -> bool:
    """Whether a sample is better than another one, or without `best` worse: by score, of equal scores by the recipe's
    rule for ties. Of the two `other` is the earlier one."""
    mine, its = entry[1]["reward"], other[1]["reward"]
    if mine != its:
        return mine > its if best else mine < its
    if recipe["ties"] == "first":
        return False

    def rank(one: Entry) -> tuple[int, str]:
        length = len(one[1]["answer"]) if recipe["ties"] == "shortest" else 0
        return length, digest([recipe["seed"], uid, one[0], one[1]["sample"], best])

    return rank(entry) < rank(other)


@dataclass
class Prompt:
    """A prompt (uid, dataset, split, prompt), and the groups of its samples by name."""

    head: dict[str, Any]
    groups: dict[str, Group]


def group_of(recipe: Recipe, corpus: str) -> str:
    """Return the name of the group that the samples of a corpus go into."""
    if recipe["pairing"] in ("best", "best_worst"):
        return "all"
    if corpus == recipe["target"]:
        return "target"
    return corpus if recipe["pairing"] == "best_of_each" else "sources"


def grouped(recipe: Recipe, corpora: Mapping[str, Iterable[ScoredSample]], lengths: Counter[str]) -> list[Prompt]:
    """Return the prompts of the splits and the share, in the order of the first corpus that has them.

    corpora: name → samples, the sources' first; they are read once, and of each group two are kept. lengths: gets the
    number of all `samples` and of their `characters`. A prompt is a row of a dataset; in corpora of other datasets it
    is the row with the same messages.
    """
    names: dict[str, str] = {}
    found: dict[str, Prompt] = {}
    for corpus, samples in corpora.items():
        for row in samples:
            if row["split"] not in recipe["splits"]:
                continue
            words = digest([row["split"], row["prompt"]])
            uid = row["uid"] if row["uid"] in found else names.setdefault(words, row["uid"])
            if not is_of_share(recipe, uid):
                continue
            lengths.update(samples=1, characters=len(row["answer"]))
            if uid not in found:
                head = {"uid": uid} | {key: cast(Any, row)[key] for key in ("dataset", "split", "prompt")}
                found[uid] = Prompt(head, {})
            # Once is enough.
            row["prompt"] = found[uid].head["prompt"]
            found[uid].groups.setdefault(group_of(recipe, corpus), Group()).add(recipe, uid, (corpus, row))
    return list(found.values())


def chosen_and_rejected(recipe: Recipe, groups: Mapping[str, Group]) -> tuple[list[Entry], list[Entry], str | None]:
    """Return (preferred answers, the other ones, None); or what there is of them, and why it is no pair.

    groups: of one prompt. Of the preferred answers the target's own is the last.
    """
    if every := groups.get("all"):
        best, worst = cast(Entry, every.best), cast(Entry, every.worst)
        if recipe["pairing"] == "best":
            return [best], [], None
        return [best], [worst], "all answers are equal" if every.equal else None
    wanted = recipe["sources"] if recipe["pairing"] == "best_of_each" else ["sources"]
    chosen = [cast(Entry, groups[name].best) for name in (*wanted, "target") if name in groups]
    if "target" not in groups:
        return chosen, [], "no answer of the target"
    rejected = [cast(Entry, groups["target"].worst)]
    if lacking := [name for name in wanted if name not in groups]:
        return chosen, rejected, f"no answer of {'a source' if lacking == ['sources'] else lacking[0]}"
    return chosen, rejected, "all answers of the target are equal" if groups["target"].equal else None


def flaw_of_choice(recipe: Recipe, chosen: Sequence[Entry], rejected: Sequence[Entry]) -> str | None:
    """Return why answers are not to be learnt from, None where they are. recipe: target, cut, min_margin,
    min_characters, max_length_ratio (None: any)."""
    for corpus, row in (*chosen, *rejected):
        of = "the target" if corpus == recipe["target"] else "a source"
        if not row["answer"].strip():
            return f"an answer of {of} is empty"
        if row["finish_reason"] == "length" and recipe["cut"] == "reject":
            return f"an answer of {of} is cut: reached max_tokens"
    for corpus, row in chosen:
        if corpus != recipe["target"] and len(row["answer"]) < recipe["min_characters"]:
            return "the best source answer is shorter than min_characters"
    for _, other in rejected:
        for _, row in chosen:
            if row["answer"] == other["answer"]:
                return "a preferred answer and the other one are equal"
            if recipe["min_margin"] is not None and row["reward"] - other["reward"] < recipe["min_margin"]:
                return "margin below min_margin"
            shorter, longer = sorted((len(row["answer"]), len(other["answer"])))
            if recipe["max_length_ratio"] is not None and longer > recipe["max_length_ratio"] * shorter:
                return "lengths differ by more than max_length_ratio"
    return None


# ---------------------------------------------------------------- records
