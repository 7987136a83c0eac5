"""Preference pairs out of scored samples: of a target's own answers, and of those of other models, its sources.

Each pair is a record as of `contrasts`: of `chosen` the sources' answers come first and the target's own last. An
answer has `policy` (source or target) and `corpus`, the corpus of scores that it is from.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from moult.base.errors import UserError
from moult.base.files import derive_seed, each_jsonl
from moult.base.rows import Facts, Recipe, Reject
from moult.base.sample_rows import ScoredSample
from moult.base.section import Name
from moult.base.stage import Experiment, Job
from moult.corpora.generated import write_corpus
from moult.corpora.kind import Generated
from moult.corpora.pairing import (
    Entry,
    chosen_and_rejected,
    flaw_of_choice,
    grouped,
)
from moult.corpora.shares import Share, share_recipe
from moult.data.fields import Split
from moult.inference.spending import summed_usage

# Raise when the same recipe would now pair otherwise.
VERSION = 1
# Nobody is asked.
NOBODY = {"name": "the scores", "serve": "the scores"}
Pairing = Literal["weighted", "best_worst", "best_of_each", "best"]
logger = logging.getLogger(__name__)


class Preferences(Generated):
    """Preference pairs, or best answers, out of scored samples."""

    rule: ClassVar = "build_preferences"
    doing: ClassVar = "pairing the answers {corpus}"
    run: ClassVar = "moult.corpora.preferences:run"
    takes: ClassVar = "scores"
    works_with_models: ClassVar = False
    dataset: ClassVar = None

    kind: Literal["preferences"] = Field(description="Kind of corpus: preference pairs out of scored samples.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    sources: list[str] = Field([], description="Corpora of `kind: scored` of other models, from which is learnt.")
    target: str | None = Field(None, description="Corpus of `kind: scored` of the answers of the model to be trained.")
    pairing: Pairing = Field(
        "weighted",
        description=(
            "`weighted` (WRPO): the best source answer and the target's best one are preferred to the target's worst "
            "one. `best_of_each`: of each source its best answer in place of the best of all. `best_worst`: the best "
            "answer of all is preferred to the worst of all. `best`: the best answer of all, to train on, no pair."
        ),
    )
    splits: list[Split] = Field(["train", "dev"], description="Splits whose prompts are paired.")
    share: Share | None = Field(
        None,
        description=(
            "[start, stop]: only prompts whose place between 0 and 1, drawn by the experiment's seed and the row's "
            "uid, is in there; the same rows in all corpora. Null: all prompts."
        ),
    )
    ties: Literal["drawn", "first", "shortest"] = Field(
        "drawn",
        description=(
            "Which of the answers with the same score is taken: `drawn` by the seed, the `first` in the order of the "
            "corpora and samples, or the `shortest`, and of those as long one that is drawn."
        ),
    )
    min_margin: float | None = Field(
        0.0,
        description=(
            "Smallest score that each preferred answer has more than the other one; pairs below it are rejected. Null: "
            "no limit, so that a source's answer may be worse than the one that it is preferred to."
        ),
    )
    truncated: Literal["keep", "reject"] = Field(
        "reject", description="What becomes of a pair one of whose answers was truncated at `max_tokens`."
    )
    min_characters: int = Field(
        1, ge=0, description="Smallest length of the preferred answers that are a source's, in characters."
    )
    length: Literal["any", "matched"] = Field(
        "any",
        description="`matched`: pairs whose lengths differ by more than `max_length_ratio` are rejected, since a "
        "reward may like length.",
    )
    max_length_ratio: float = Field(
        1.5,
        ge=1,
        description="Largest ratio of the longer to the shorter of a preferred and the other answer, in characters; "
        "for `length: matched` only.",
    )

    @model_validator(mode="after")
    def has_what_it_pairs(self) -> Self:
        if self.pairing in ("weighted", "best_of_each") and not (self.sources and self.target):
            raise ValueError(
                f"pairing: `{self.pairing}` needs `sources` and a `target`; name both, or pair `best_worst`"
            )
        if not self.sources and not self.target:
            raise ValueError("sources: name corpora of scores, or a `target`")
        if "max_length_ratio" in self.model_fields_set and self.length == "any":
            raise ValueError("max_length_ratio: is for `length: matched`; write that, or leave it out")
        pool = [*self.sources, *filter(None, [self.target])]
        if len(set(pool)) < len(pool):
            raise ValueError("sources: a corpus stands twice among sources and target; leave one out")
        return self

    @property
    def writes(self) -> Literal["answers", "pairs"]:  # type: ignore[override]  # by what is asked for
        return "answers" if self.pairing == "best" else "pairs"

    @property
    def has_sources(self) -> bool:  # type: ignore[override]  # by what is asked for
        return self.pairing in ("weighted", "best_of_each")

    @property
    def asked(self) -> str:
        return [*self.sources, *filter(None, [self.target])][0]

    @property
    def reads(self) -> dict[str, str | list[str]]:
        found: dict[str, str | list[str]] = {"sources": list(self.sources)} if self.sources else {}
        return found | ({"target": self.target} if self.target else {})

    @property
    def endpoints(self) -> dict[str, str]:
        return {}

    def checks(self, cfg: Experiment) -> Iterator[str]:
        scorers = {name: cfg.find("corpora", name).scorer for name in (*self.sources, *filter(None, [self.target]))}
        first, *others = scorers
        for name in others:
            if scorers[name] != scorers[first]:
                told = f"{first!r} has scores of {scorers[first]!r}, {name!r} of {scorers[name]!r}"
                yield f"sources and target: {told}, which are on no common scale; let one score both"
                return

    def recipe(self, cfg: Experiment) -> Recipe:
        return {
            "name": self.name,
            "splits": list(self.splits),
            **share_recipe(cfg, self.share),
            "endpoint": {},
            "sources": list(self.sources),
            "target": self.target,
            "rm": cfg.find("corpora", self.asked).scorer,
            "pairing": self.pairing,
            "ties": self.ties,
            "min_margin": self.min_margin,
            "cut": self.truncated,
            "min_characters": self.min_characters,
            "max_length_ratio": self.max_length_ratio if self.length == "matched" else None,
            "seed": derive_seed(cfg.seed, self.kind, self.name),
            "version": VERSION,
        }

    def client(self, cfg: Experiment) -> dict[str, Any] | None:
        return None

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        what = "best answers" if recipe["pairing"] == "best" else "pairs"
        rows = f"{facts['rows']:,} {what} by {recipe['rm']}"
        won = ", ".join(f"{name} {count:,}" for name, count in facts["won"].items())
        told = [f"{rows} ({recipe['pairing']}, ties {recipe['ties']})", f"best source answers: {won}"]
        told += [f"{name} {share:.1%}" for name, share in facts["longer"].items()]
        lengths = ", ".join(f"{name} {length:,.0f}" for name, length in facts["characters"].items())
        margin = [f"margin {facts['margin']['mean']:.4g} on average"] if facts["margin"] else []
        return rows, "; ".join([*told, f"characters on average: {lengths}", *margin])


# ---------------------------------------------------------------- which answers


def build_preferences(
    recipe: Recipe, corpora: Mapping[str, Iterable[ScoredSample]]
) -> tuple[list[dict[str, Any]], list[Reject], Facts]:
    """Return (records, rejects with reasons, what is told of them). corpora: name → scored samples, the sources' first.

    A record is a PreferencePair, or with pairing `best` a row with `answer`.
    """
    kept: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    told: list[tuple[list[Entry], list[Entry]]] = []
    lengths: Counter[str] = Counter()
    prompts = grouped(recipe, corpora, lengths)
    if not prompts:
        raise UserError(f"{', '.join(corpora)}: no sample is of a prompt of {recipe['splits']} and of the share.")
    for prompt in prompts:
        chosen, rejected, reason = chosen_and_rejected(recipe, prompt.groups)
        if reason := reason or flaw_of_choice(recipe, chosen, rejected):
            text = (rejected or chosen)[0][1]["answer"]
            rejects.append({"uid": prompt.head["uid"], "reason": reason, "text": text})
            continue
        told.append((chosen, rejected))
        kept.append(_record(recipe, prompt.head, chosen, rejected))
    return kept, rejects, {"rows_in": len(prompts)} | summary(recipe, told, lengths)


def _record(recipe, prompt, chosen, rejected):
    head = {key: prompt[key] for key in ("uid", "dataset", "split")}
    head |= {"title": None, "question": prompt["prompt"][-1]["content"], "prompt": prompt["prompt"]}
    if recipe["pairing"] == "best":
        ((corpus, row),) = chosen
        return head | {"answer": row["answer"], "answer_by": row["answer_by"], "reward": row["reward"]}
    sides = {
        side: [
            {"role": "assistant", "content": row["answer"], "model": row["answer_by"], "corpus": corpus}
            | {"policy": "target" if corpus == recipe["target"] else "source"}
            | {"sample": row["sample"], "tokens": row["tokens"], "reward": row["reward"]}
            for corpus, row in answers
        ]
        for side, answers in (("chosen", chosen), ("rejected", rejected))
    }
    return head | sides | {"rm": recipe["rm"], "margin": _margin(chosen, rejected), "seed": recipe["seed"]}


def _margin(chosen, rejected):
    """Return the least score that a preferred answer has more than the other one."""
    return round(min(row["reward"] for _, row in chosen) - max(row["reward"] for _, row in rejected), 6)


def summary(recipe: Recipe, told: Sequence[tuple[list[Entry], list[Entry]]], lengths_of: Counter[str]) -> Facts:
    """Return what is told of pairs, each (preferred answers, the other ones); lengths_of: see `grouped`.

    won: corpus → how often it had the best answer that is preferred (of sources, where there are some). characters:
    mean lengths of source_best, target_best, target_worst (best and worst of a pool), and of all samples. margin: mean,
    and quantiles. longer: share of pairs whose preferred answer is the longer one; what a reward's liking for length
    would raise.
    """
    weighted = recipe["pairing"] in ("weighted", "best_of_each")
    leading = [max(chosen[:-1] if weighted else chosen, key=lambda entry: entry[1]["reward"]) for chosen, _ in told]
    won = Counter(corpus for corpus, _ in leading)
    lengths: dict[str, list[int]] = {"source_best" if weighted else "best": [len(row["answer"]) for _, row in leading]}
    longer = {}
    if weighted:
        lengths["target_best"] = [len(chosen[-1][1]["answer"]) for chosen, _ in told]
        above = [one > other for one, other in zip(lengths["source_best"], lengths["target_best"], strict=True)]
        longer["source's best longer than target's best"] = _mean(above)
    if recipe["pairing"] != "best":
        worst = [len(rejected[0][1]["answer"]) for _, rejected in told]
        above = [len(chosen[-1][1]["answer"]) > one for (chosen, _), one in zip(told, worst, strict=True)]
        longer[f"{'target' if weighted else 'pool'}'s best longer than its worst"] = _mean(above)
        lengths["target_worst" if weighted else "worst"] = worst
    margins = sorted(_margin(*one) for one in told) if recipe["pairing"] != "best" else []
    places = {"lowest": 0.0, "median": 0.5, "highest": 1.0}
    margin = {name: margins[round(place * (len(margins) - 1))] for name, place in places.items()} if margins else {}
    return {
        "won": {name: won[name] for name in (*recipe["sources"], recipe["target"]) if won[name]},
        "characters": {name: _mean(values) for name, values in lengths.items()}
        | {"all samples": round(lengths_of["characters"] / max(1, lengths_of["samples"]), 6)},
        "longer": longer,
        "margin": margin | ({"mean": _mean(margins)} if margins else {}),
    }


def _mean(values):
    return round(sum(values) / len(values), 6) if values else 0.0


def run(job: Job) -> None:
    """Do the job of build_preferences."""
    recipe = job.recipe
    paths: dict[str, str | Path] = dict(zip(recipe["sources"], job.inputs.get("sources", []), strict=True))
    if recipe["target"]:
        paths[recipe["target"]] = job.inputs.target
    kept, rejects, facts = build_preferences(recipe, {name: each_jsonl(path) for name, path in paths.items()})
    logger.info("%d prompts, %d kept, %d rejected", facts["rows_in"], len(kept), len(rejects))
    usage = summed_usage([], NOBODY)
    job.facts = write_corpus(job.outputs.corpus, job.outputs.rejects, job.outputs.usage, (kept, rejects, usage)) | facts
