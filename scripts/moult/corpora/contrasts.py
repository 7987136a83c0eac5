"""Preference pairs that a model makes itself: the chosen answer took more computing than the rejected one.

Each pair is one record: `uid`, `split`, `prompt` (chat messages), `chosen` and `rejected` (a list of one answer each:
`role`, `content`, `model`, `decoding`, `tokens`, `reward`), `rm` (what the rewards are, null where there are none),
`margin` (reward of the chosen answer less that of the rejected one, or null) and `seed`.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from moult.base.files import derive_seed
from moult.base.rows import CorpusRow, Facts, PreferencePair, Recipe, Reject, StoredAnswer
from moult.base.section import Name, Section, exactly_one
from moult.base.stage import Experiment, Job
from moult.corpora.generated import check_rows, write_corpus
from moult.corpora.kind import Generated
from moult.corpora.similarity import chrf, ngrams, repetition
from moult.data.fields import Decoding, Prompt, Split
from moult.data.prompts import load_template, render
from moult.data.questions import asked_rows
from moult.inference.asking import Asker, asker_of, flaw_of
from moult.inference.plans import Plan
from moult.inference.recipes import decoding_recipe, endpoint_recipe
from moult.inference.requests import ChatRequest, Sampling, author

# Raise when the same recipe would now ask or choose something else.
VERSION = 1
logger = logging.getLogger(__name__)


class Chosen(Section):
    """How the chosen answer of a pair is decoded, with more computing than the rejected one."""

    method: Literal["beam", "minimum_bayes_risk"] = Field(
        "beam",
        description="How the chosen answer is found: `beam`, the best beam of a beam search; `minimum_bayes_risk`, of "
        "several samples the one that is most like all others (mean chrF).",
    )
    beams: int = Field(10, ge=2, description="Number of beams; for `method: beam` only.")
    length_penalty: float = Field(
        1.0,
        description="Exponent of an answer's length: beams are ranked by log-likelihood / tokens ** length_penalty; "
        "for `method: beam` only.",
    )
    samples: int = Field(8, ge=2, description="Number of sampled answers; for `method: minimum_bayes_risk` only.")
    temperature: float = Field(
        0.7, gt=0, description="Sampling temperature of each sample; for `method: minimum_bayes_risk` only."
    )
    top_p: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Nucleus of each sample: tokens are drawn from the likeliest ones whose probabilities sum to "
        "`top_p`; for `method: minimum_bayes_risk` only.",
    )
    top_k: int = Field(
        0,
        ge=0,
        description="Tokens are drawn from so many of the likeliest ones; 0: no such limit; for `method: "
        "minimum_bayes_risk` only.",
    )

    @model_validator(mode="after")
    def settings_fit_method(self) -> Self:
        settings = {"beam": {"beams", "length_penalty"}}
        settings["minimum_bayes_risk"] = {"samples", "temperature", "top_p", "top_k"}
        if strange := sorted(self.model_fields_set - settings[self.method] - {"method"}):
            known = ", ".join(sorted(settings[self.method]))
            raise ValueError(f"{strange[0]} is no setting of method {self.method}; it has {known}")
        return self

    def recipe(self) -> Recipe:
        """Return the method and its own settings; recipes and pairs call minimum Bayes risk `consistency`."""
        of_beam = {"method": "beam", "beams": self.beams, "length_penalty": self.length_penalty}
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return of_beam if self.method == "beam" else {"method": "consistency", "samples": self.samples} | drawn


class Gate(Section):
    """Which pairs are worth learning from; both answers must have ended by themselves."""

    min_characters: int = Field(20, ge=1, description="Smallest length of the chosen answer, in characters.")
    max_repetition: float = Field(
        0.2,
        ge=0,
        le=1,
        description="Largest share of the chosen answer's word 4-grams that repeat an earlier one, 0 to 1.",
    )
    max_length_ratio: float = Field(
        2.0, ge=1, description="Largest ratio of the longer answer's length to the shorter answer's, in characters."
    )
    max_similarity: float = Field(
        0.95, gt=0, le=1, description="Largest similarity (chrF) of the two answers, above 0 to 1."
    )


class Contrasts(Generated):
    """METEOR stage 3: preference pairs that a model makes itself; the chosen answer is decoded with more computing."""

    rule: ClassVar = "contrast_answers"
    doing: ClassVar = "contrasting answers for the pairs {corpus}"
    run: ClassVar = "moult.corpora.contrasts:run"
    writes: ClassVar = "pairs"
    has_sources: ClassVar = False
    shown: ClassVar = {"prompt": ()}

    kind: Literal["contrasts"] = Field(description="Kind of corpus: preference pairs that a model makes itself.")
    name: Name = Field(
        description=(
            "Name of the corpus, by which other entries refer to it; letters, digits, `_`, `.` and `-`. It is"
            " part of paths."
        )
    )
    dataset: str | None = Field(
        None, description="Dataset whose questions are asked; write either `dataset` or `corpus`."
    )
    corpus: str | None = Field(
        None, description="Corpus whose questions are asked; write either `dataset` or `corpus`."
    )
    splits: list[Split] = Field(["train", "dev"], description="Splits whose rows are asked.")
    endpoint: str = Field(description="Endpoint that writes both answers of a pair.")
    prompt: Prompt | None = Field(
        None,
        description=(
            "Template of resources/prompts for the questions; null: the one that the questions' dataset trains with."
        ),
    )
    decoding: Decoding = Field(
        Decoding(max_tokens=512),
        description="How the rejected answer is decoded; its `max_tokens` limits the chosen answer too.",
    )
    chosen: Chosen = Field(Chosen(), description="How the chosen answer is decoded.")
    gate: Gate = Field(Gate(), description="Limits that a pair has to keep; other pairs are rejected with the reason.")

    @model_validator(mode="after")
    def one_source(self) -> Self:
        exactly_one(self, "dataset", "corpus")
        return self

    def recipe(self, cfg: Experiment) -> Recipe:
        return {
            "name": self.name,
            "splits": list(self.splits),
            "endpoint": endpoint_recipe(cfg, self.endpoint),
            "prompt": load_template(self.prompt or cfg.corpus_dataset(self.name).template),
            "rejected": decoding_recipe(self.decoding),
            "chosen": self.chosen.recipe(),
            "gate": {
                "min_characters": self.gate.min_characters,
                "max_repetition": self.gate.max_repetition,
                "max_length_ratio": self.gate.max_length_ratio,
                "max_similarity": self.gate.max_similarity,
            },
            "seed": derive_seed(cfg.seed, self.kind, self.name),
            "version": VERSION,
        }

    @staticmethod
    def words(recipe: Recipe, facts: Facts) -> tuple[str, str]:
        pairs, chosen = f"{facts['rows']:,} pairs by {author(recipe['endpoint'])}", recipe["chosen"]
        beam = chosen["method"] == "beam"
        of = f"the best beam of {chosen['beams']}" if beam else f"the closest sample of {chosen['samples']}"
        return pairs, f"{pairs}, chosen: {of}"

    @property
    def most_answers(self) -> int:
        return 1 + (self.chosen.beams if self.chosen.method == "beam" else self.chosen.samples)

    @property
    def most_beams(self) -> int:
        return self.chosen.beams if self.chosen.method == "beam" else 1

    def mistakes(self, engines: Mapping[str, str | None]) -> Iterator[str]:
        if self.chosen.method == "beam" and engines["endpoint"] != "transformers":
            yield (
                f"corpora {self.name!r}, chosen: beam search needs an endpoint that serves a model by engine "
                "transformers; write `method: minimum_bayes_risk`"
            )

    def plans(self, recipe: Recipe, rows: Sequence[CorpusRow]) -> dict[str, Plan]:
        return {"endpoint": Plan(pair_requests(recipe, rows), self.decoding.max_tokens)}


def contrast_answers(recipe: Recipe, rows: Sequence[CorpusRow], asker: Asker, outputs: Any) -> Facts:
    """Make the pairs of a job and write its corpus, rejects and usage; return the counts for the manifest."""
    check_rows(rows)
    requests = pair_requests(recipe, rows)
    kept, rejects = pairs_of(recipe, rows, requests, asker.ask(requests), asker.author)
    logger.info("%d rows in, %d pairs out, %d rejected", len(rows), len(kept), len(rejects))
    facts = write_corpus(outputs.corpus, outputs.rejects, outputs.usage, (kept, rejects, asker.usage()))
    longer = sum(len(pair["chosen"][0]["content"]) > len(pair["rejected"][0]["content"]) for pair in kept)
    return facts | {"rows_in": len(rows), "chosen_longer": longer}


def samplings(recipe: Recipe) -> list[Sampling]:
    """Return how the answers to a row are decoded, as Samplings: the rejected one, then each candidate for chosen."""
    rejected, chosen = recipe["rejected"], recipe["chosen"]
    length = {"max_tokens": rejected["max_tokens"]}
    if chosen["method"] == "beam":
        return [
            Sampling(**rejected),
            Sampling(beams=chosen["beams"], length_penalty=chosen["length_penalty"], **length),
        ]
    drawn = {key: chosen[key] for key in ("temperature", "top_p", "top_k")}
    return [Sampling(**rejected), *[Sampling(**drawn, **length)] * chosen["samples"]]


def pair_requests(recipe: Recipe, rows: Sequence[CorpusRow]) -> list[ChatRequest]:
    """Return what is asked for the pairs of all rows: for each row, one request for each of `samplings`, in order.

    A request's seed comes from its own words and its place, so that neither order nor neighbours change its answer.
    """
    ways = samplings(recipe)
    requests = []
    for row in rows:
        messages = tuple(render(recipe["prompt"], **({"guideline": ""} | row)))
        seeds = [derive_seed(recipe["seed"], list(messages), place) for place in range(len(ways))]
        requests += [ChatRequest(messages, way, seed=seed) for way, seed in zip(ways, seeds, strict=True)]
    return requests


def pairs_of(
    recipe: Recipe, rows: Sequence[CorpusRow], requests: Sequence[ChatRequest], values: Sequence[StoredAnswer], by: str
) -> tuple[list[PreferencePair], list[Reject]]:
    """Return (pairs, rejects with reasons) of the stored answers to `pair_requests`; by: name of who answered."""
    each = len(samplings(recipe))
    kept: list[PreferencePair] = []
    rejects: list[Reject] = []
    for number, row in enumerate(rows):
        other, *candidates = values[number * each : (number + 1) * each]
        (first, *_) = requests[number * each : (number + 1) * each]
        best, reason = choose(other, candidates, recipe["gate"], recipe["chosen"]["method"])
        if reason:
            rejects.append({"uid": row["uid"], "reason": reason, "text": best["text"]})
            continue
        rewards = best["reward"], best["reward_of_rejected"]
        named = ("greedy" if not recipe["rejected"]["temperature"] else "sampled"), recipe["chosen"]["method"]
        rejected, chosen = (
            {"role": "assistant", "content": answer["text"], "model": by, "decoding": way}
            | {"tokens": answer["completion_tokens"], "reward": reward}
            for answer, way, reward in ((other, named[0], rewards[1]), (best, named[1], rewards[0]))
        )
        pair = (
            {key: row[key] for key in ("uid", "dataset", "split", "title", "question")}
            | {"prompt": list(first.messages), "chosen": [chosen], "rejected": [rejected]}
            | {"rm": None if rewards[0] is None else "mean chrF to the samples"}
            | {"margin": None if rewards[0] is None else round(rewards[0] - rewards[1], 6), "seed": recipe["seed"]}
        )
        kept.append(cast(PreferencePair, pair))
    return kept, rejects


def choose(
    rejected: StoredAnswer, candidates: Sequence[StoredAnswer], gate: Mapping[str, Any], method: str
) -> tuple[Any, str | None]:
    """Return (answer, None): the candidate to be chosen over `rejected`, with rewards; or (answer at fault, reason).

    rejected: a stored answer. candidates: stored answers, the one of beam search or all samples. gate: see
    `flaw_of_chosen` and `flaw_of_pair`. method: as in the recipe. Of the samples that the gate lets through, the one
    wins that is most like all others by mean chrF: minimum Bayes risk decoding (Eikema and Aziz 2020, arXiv
    2005.10283), which is what self-consistency (Wang et al. 2023, arXiv 2203.11171) becomes for free text.
    """
    if reason := flaw_of(rejected, "reject"):
        return rejected, f"rejected answer: {reason}"
    if method == "beam":
        (best,) = candidates
        reason = flaw_of_chosen(best, gate) or flaw_of_pair(best["text"], rejected["text"], gate)
        return best | {"reward": None, "reward_of_rejected": None}, reason
    ended = [answer for answer in candidates if not flaw_of(answer, "reject")]
    if len(ended) < 2:
        reason = next((flaw for answer in candidates if (flaw := flaw_of(answer, "reject"))), None)
        found = f"{len(ended)} of {len(candidates)} samples are whole, the first that is not: {reason}"
        return candidates[0], f"chosen answer: {found}"
    grams = [ngrams(answer["text"]) for answer in ended]
    rewards = [
        sum(chrf(one, other) for place, other in enumerate(grams) if place != own) / (len(grams) - 1)
        for own, one in enumerate(grams)
    ]
    of_rejected = sum(chrf(ngrams(rejected["text"]), other) for other in grams) / len(grams)
    first_flaw: Any = None
    for place in sorted(range(len(ended)), key=lambda place: (-rewards[place], place)):
        reason = flaw_of_chosen(ended[place], gate) or flaw_of_pair(ended[place]["text"], rejected["text"], gate)
        if reason is None:
            told = {"reward": round(rewards[place], 6), "reward_of_rejected": round(of_rejected, 6)}
            return dict(ended[place]) | told, None
        first_flaw = first_flaw or (ended[place], reason)
    return first_flaw


def flaw_of_chosen(answer: StoredAnswer, gate: Mapping[str, Any]) -> str | None:
    """Return why a stored answer is not good enough to be learnt, or None.

    gate: `min_characters`; `max_repetition`, the greatest share of word 4-grams that stood in the text before.
    """
    if reason := flaw_of(answer, "reject"):
        return f"chosen answer: {reason}"
    if len(answer["text"]) < gate["min_characters"]:
        return "chosen answer: shorter than min_characters"
    if repetition(answer["text"]) > gate["max_repetition"]:
        return "chosen answer: repeats itself more than max_repetition"
    return None


def flaw_of_pair(chosen: str, rejected: str, gate: Mapping[str, Any]) -> str | None:
    """Return why two texts are no pair to learn from, or None.

    gate: `max_length_ratio`, of the longer to the shorter in characters, whichever is chosen: else length is what is
    learnt; `max_similarity`, the chrF from which they are too much alike.
    """
    if chosen == rejected:
        return "the two answers are equal"
    shorter, longer = sorted((len(chosen), len(rejected)))
    if longer > gate["max_length_ratio"] * shorter:
        return f"the {'chosen' if len(chosen) == longer else 'rejected'} answer is longer than max_length_ratio allows"
    if chrf(ngrams(chosen), ngrams(rejected)) > gate["max_similarity"]:
        return "the two answers are more alike than max_similarity"
    return None


def run(job: Job) -> None:
    """Do the job of contrast_answers."""
    with asker_of(job, job.inputs) as asker:
        job.facts = contrast_answers(job.recipe, asked_rows(job.inputs, job.recipe["splits"]), asker, job.outputs)
