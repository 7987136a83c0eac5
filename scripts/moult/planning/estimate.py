"""What an experiment would ask and pay: `python -m moult.planning.estimate CONFIG [--json]`.

It sends no request and changes no file but its own notes of what it has predicted.
"""

import argparse
import contextlib
import functools
import json
import logging
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moult.base.errors import UserError
from moult.base.legible import legible
from moult.config.experiment import Config
from moult.config.load import load_file
from moult.inference.asking import identity_of
from moult.inference.journal import JOURNALS, Journal, copy_of, journals
from moult.inference.recipes import client_of, spending_folder
from moult.inference.requests import ChatRequest, request_key
from moult.inference.siblings import adopt
from moult.inference.spending import cost_of, counts_in, job_of, recount
from moult.inference.tokens import prompt_ids
from moult.inference.usage import answers_in, worst_case
from moult.planning.known import QUESTION_TOKENS, USUAL_QUESTION, Artefacts, Known
from moult.planning.predictions import compared, noted
from moult.stages import STAGES

# Characters per token of a text of ASCII, at most, usually, at least; of English prose it is about four, of code three.
MOST, USUAL, LEAST = 8, 4, 2
# Tokens that a message has around its text, at most.
AROUND = 8
# Answers that are looked at to see how many tokens this model makes of a text.
SAMPLE = 500
ASSUMED = (
    f"prompt tokens assumed: one per {LEAST} to {MOST} characters, {USUAL} as usual; beyond ASCII up to one per byte"
)
BOUNDS = (
    "prompt_tokens_low",
    "prompt_tokens",
    "prompt_tokens_high",
    "answer_tokens_low",
    "answer_tokens",
    "answer_tokens_high",
)
MONEY = ("dollars_low", "dollars", "dollars_high")
UNKNOWN = ("rows", "answered", "ask", *BOUNDS, *MONEY)
COLUMNS = (
    "corpus",
    "endpoint",
    "rows",
    "answered",
    "to ask",
    "prompt tokens",
    "answer tokens",
    "US dollars",
    "about",
    "paid",
)


class Range(NamedTuple):
    """A number at least, as it usually is, and at most."""

    low: float
    usual: float
    high: float

    def plus(self, other: "Range") -> "Range":
        return Range(*(one + another for one, another in zip(self, other, strict=True)))

    def times(self, low: float, usual: float, high: float) -> "Range":
        return Range(self.low * low, self.usual * usual, self.high * high)


class SoFar(NamedTuple):
    """What a journal says of one model's answers to one experiment.

    mean: tokens per answer, None without any. ratio: tokens of prompts to what is usually assumed of their texts.
    worst: whether replies come without counts of tokens, and are charged at their worst case.
    """

    known: set[str]
    mean: float | None = None
    ratio: float = 1.0
    worst: bool = False


class Estimator:
    """Looks at a config, its results so far and its journals."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.artefacts = cfg, Artefacts(cfg)
        self.tokenizer = functools.cache(self._tokenizer)
        self.spending = spending_folder(cfg.name)
        recount(self.spending, JOURNALS)
        self.counts = counts_in(self.spending)

    def jobs(self) -> list[dict[str, Any]]:
        """Return what each job that asks endpoints would ask and cost, as plain JSON; None stands for unknown."""
        asking = [stage for stage in STAGES if stage.asks is not None]
        jobs = [self._job(stage, names) for stage in asking for names in stage.planned(self.cfg)]
        return [job for job in jobs if job]

    def _job(self, stage, names):
        known = Known(self.artefacts)
        asking = stage.asks(self.cfg, known, *names)
        if asking is None:
            return None
        clients = {part: client_of(self.cfg, name) for part, name in asking.endpoints.items()}
        journal = JOURNALS / stage.rule / f"{'/'.join(names)}.sqlite"
        found = {"corpus": "/".join(names), "endpoint": " and ".join(asking.endpoints.values()), "notes": known.notes}
        found |= {"paid": self.counts.get(job_of(journal), 0.0), **dict.fromkeys(UNKNOWN)}
        remote = {part: client for part, client in clients.items() if client}
        for part in remote:
            if not remote[part]["price"]:
                known.note(f"price unknown: set `price` of the endpoint {asking.endpoints[part]}")
        if not remote:
            found |= dict.fromkeys(MONEY, 0.0)
        if len(clients) > 1:
            return found | {"mode": "refined"} | self._bounded(asking, clients, journal, known)
        return (
            found
            | {"mode": next(iter(remote.values()))["mode"] if remote else "served"}
            | self._asking(asking, clients["endpoint"], journal, known)
        )

    def total(self, corpora: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the sum over corpora, what was spent before, and the budget; null where a part is unknown."""
        sums = {}
        for bound in MONEY:
            parts = [corpus[bound] for corpus in corpora]
            sums[bound] = None if None in parts else sum(parts)
        return sums | {"spent": sum(self.counts.values()), "budget": self.cfg.budget}

    def _asking(self, asking, client, journal, known):
        """Return what the requests of one endpoint cost, of those that the journals lack."""
        if asking.plans is None:
            return {}
        requests, longest, *_ = asking.plans["endpoint"]
        endpoint = asking.recipe["endpoint"]
        keys = self._keys(requests, endpoint, known)
        so_far = self._so_far(journal, dict(zip(keys, requests, strict=True)) if keys else {}, endpoint, known)
        wanted = dict(zip(keys, requests, strict=True)) if keys else dict(enumerate(requests))
        missing = [request for key, request in wanted.items() if key not in so_far.known]
        if asking.guessed:
            known.note(f"which of {len(asking.guessed)} requests are answered already is unknown")
        prompts = self._prompt_tokens(missing, endpoint, so_far, known)
        beside = self._prompt_tokens(asking.guessed, endpoint, so_far, known)
        low, high = asking.extra
        usual = min(high, USUAL_QUESTION if known.assumed == QUESTION_TOKENS else (low + high) / 2)
        count = len(asking.guessed)
        beside = beside.plus(Range(count * low, count * usual, count * high))
        if so_far.known or journal.exists():
            # Some may be answered already.
            beside = beside._replace(low=0)
        prompts = prompts.plus(beside)
        count += len(missing)
        answers = self._answers(count, longest, so_far, known)
        found = {"rows": len(requests) + len(asking.guessed), "ask": count}
        found |= {"answered": len(so_far.known) if keys is not None and (requests or not asking.guessed) else None}
        return found | _bounds(prompts, answers) | self._priced(client, prompts, answers)

    def _bounded(self, asking, clients, journal, known):
        """Return what several endpoints cost whose prompts gain what was answered before: each request once at least,
        as often as its plan says at most."""
        if asking.plans is None:
            return {}
        plans, begun = asking.plans, journal.exists()
        prompts = answers = Range(0, 0, 0)
        money = dict.fromkeys(MONEY, 0.0)
        for part, plan in plans.items():
            count = len(plan.requests)
            once = characters_as_tokens(plan.requests).plus(
                Range(*(count * tokens for tokens in _middle(asking.extra)))
            )
            middle = (1 + plan.times) / 2
            asked = once.times(0 if begun else 1, middle, plan.times)
            asked = asked.plus(Range(0, plan.gains * count / 2, plan.gains * count))
            said = Range(0, middle * count * plan.longest / 2, plan.times * count * plan.longest)
            prompts, answers = prompts.plus(asked), answers.plus(said)
            if clients[part]:
                cost = self._priced(clients[part], asked, said)
                money = {bound: money[bound] + cost[bound] for bound in MONEY if bound in cost and bound in money}
        often = max(plan.times for plan in plans.values())
        known.note(
            f"counted with up to {often} answers and verdicts per row, the most that is asked, whatever is answered yet"
        )
        known.note(ASSUMED)
        asked = sum(plan.times * len(plan.requests) for plan in plans.values())
        return {"rows": len(plans["endpoint"].requests), "ask": asked} | _bounds(prompts, answers) | money

    def _priced(self, client, prompts, answers):
        """Return the dollars of so many tokens, nothing without a price."""
        if not client or not client["price"]:
            return {}
        both = zip(MONEY, prompts, answers, strict=True)
        return {bound: cost_of(client["price"], prompt, answer) for bound, prompt, answer in both}

    def _answers(self, count, longest, so_far, known):
        if so_far.mean is None:
            if count:
                known.note(f"answer tokens assumed: up to {longest:,} each (`max_tokens`), half of that as usual")
            return Range(0, count * longest / 2, count * longest)
        known.note(f"{so_far.mean:.0f} tokens an answer so far, by this model for this experiment: as usual")
        return Range(0, count * min(so_far.mean, longest), count * longest)

    def _served(self, endpoint):
        return self.artefacts.results / "models" / endpoint["serve"]

    def _keys(self, requests, endpoint, known):
        """Return the journal's keys of requests, None where the model that answers is not built yet."""
        manifest = None if "url" in endpoint else Path(f"{self._served(endpoint)}.manifest.json")
        if manifest and not manifest.exists():
            known.note(f"the model {endpoint['serve']} is not built yet: which rows are answered already is unknown")
            return None
        identity = identity_of(endpoint, manifest)
        return [request_key(request, identity) for request in requests]

    def _so_far(self, path, requests, endpoint, known):
        """Return what the journals say of the answers to requests (key → request); SoFar."""
        try:
            with _workbench(path) as journal:
                found = answers_in(journal.known(list(requests)), path)
                if "url" in endpoint and (lacking := {key: one for key, one in requests.items() if key not in found}):
                    others = list(journals(JOURNALS, but=path))
                    found |= adopt(journal, lacking, identity_of(endpoint), others)
                return self._measured(journal, requests, found, endpoint)
        except BlockingIOError:
            known.note(f"{path} is in use by a running build, not counted")
            return SoFar(set())

    def _measured(self, journal, requests, found, endpoint):
        """Return the SoFar of the answers that this experiment has from this model: today's, and those of before."""
        mine = "SELECT key FROM payments WHERE experiment IS ? AND model IS ? AND key IS NOT NULL ORDER BY rowid DESC"
        asked = journal.connection.execute(f"{mine} LIMIT {SAMPLE}", (self.spending, endpoint.get("model")))
        values = found | answers_in(journal.known([key for (key,) in asked if key not in found]), journal.path)
        whole = {key: value for key, value in values.items() if isinstance(value, dict) and value["prompt_tokens"]}
        if not whole:
            return SoFar(set(found))
        mean = sum(value["completion_tokens"] for value in whole.values()) / len(whole)
        worst = any(value.get("assumed") for value in whole.values())
        sample = [key for key in list(whole)[:SAMPLE] if key in requests]
        usual = characters_as_tokens(requests[key] for key in sample).usual
        ratio = sum(whole[key]["prompt_tokens"] for key in sample) / usual if usual else 1.0
        return SoFar(set(found), mean, ratio, worst)

    def _prompt_tokens(self, requests, endpoint, so_far, known):
        if not requests:
            return Range(0, 0, 0)
        if "serve" in endpoint and Path(f"{self._served(endpoint)}.manifest.json").exists():
            tokenizer = self.tokenizer(self._served(endpoint))
            return Range(*[sum(len(prompt_ids(tokenizer, list(request.messages))) for request in requests)] * 3)
        known.note(ASSUMED)
        low, usual, high = characters_as_tokens(requests)
        if so_far.worst:
            known.note(
                "replies of this endpoint come without counts of tokens: at most a token per byte of the request"
            )
            high = sum(worst_case(request.as_dict())["prompt_tokens"] for request in requests)
        return Range(low, min(max(low, usual * so_far.ratio), high), high)

    def _tokenizer(self, folder):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextlib.contextmanager
def _workbench(path: Path) -> Iterator[Journal]:
    """Yield a copy of a journal, or an empty one where there is none: nothing that is done to it stays."""
    with contextlib.ExitStack() as stack:
        if path.exists():
            yield stack.enter_context(copy_of(path))
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            yield stack.enter_context(Journal(Path(folder, "none.sqlite")))


def _middle(extra):
    low, high = extra
    return low, min(high, USUAL_QUESTION if extra == QUESTION_TOKENS else (low + high) / 2), high


def _bounds(prompts, answers):
    return dict(zip(BOUNDS, map(round, (*prompts, *answers)), strict=True))


def characters_as_tokens(requests: Iterable[ChatRequest]) -> Range:
    """Return how many tokens the prompts of requests may have, by their characters; for a schema, too."""
    low = usual = high = 0.0
    for request in requests:
        for message in request.messages:
            size, letters = len(message["content"].encode(errors="replace")), len(message["content"])
            # Each character beyond ASCII has two to four bytes.
            plain = letters if size == letters else sum(map(str.isascii, message["content"]))
            low += plain / MOST + (letters - plain) / USUAL
            usual += plain / USUAL + (letters - plain)
            high += plain / LEAST + (size - plain) + AROUND
        form = request.schema or request.choices
        high += len(json.dumps(form)) if form else 0
    return Range(low, usual, high)


def lines_of(corpora: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table, and each corpus' notes under it."""
    cells = [COLUMNS]
    for corpus in corpora:
        endpoint = f"{corpus['endpoint']} ({corpus['mode']})"
        counts = [_number(corpus[name]) for name in ("rows", "answered", "ask")]
        tokens = [_range(corpus[f"{of}_tokens_low"], corpus[f"{of}_tokens_high"], ",") for of in ("prompt", "answer")]
        money = _range(corpus["dollars_low"], corpus["dollars_high"], ",.4f")
        about = "unknown" if corpus["dollars"] is None else f"{corpus['dollars']:,.4f}"
        cells.append((corpus["corpus"], endpoint, *counts, *tokens, money, about, f"{corpus['paid']:,.4f}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    notes = defaultdict(list)
    for corpus in corpora:
        for note in corpus["notes"]:
            notes[note].append(corpus["corpus"])
    return lines + [f"- {', '.join(names)}: {note}" for note, names in notes.items()]


def _number(value):
    return "unknown" if value is None else f"{value:,}"


def _range(low, high, style):
    if low is None or high is None:
        return "unknown"
    return f"{high:{style}}" if low == high else f"{low:{style}} to {high:{style}}"


def before_and_after(total: Mapping[str, Any]) -> list[str]:
    """Return a line that sets the last prediction beside what was paid since, none where nothing was."""
    if not (before := total["predicted"]):
        return []
    money = _range(before["dollars_low"], before["dollars_high"], ",.4f").replace("to ", "to $")
    held = before["dollars_low"] <= before["paid"] <= before["dollars_high"]
    beyond = "within it" if held else "the rest is to be paid yet" if before["paid"] < before["dollars_low"] else "more"
    return [
        f"Predicted before: ${money}, about ${before['dollars']:,.4f}; paid since: ${before['paid']:,.4f}, {beyond}."
    ]


def within_budget(total: Mapping[str, Any]) -> str:
    """Return the last line: all that is to be paid, against what is left of the budget."""
    low, high, spent, budget = (total[name] for name in ("dollars_low", "dollars_high", "spent", "budget"))
    cost = "unknown" if low is None else f"${_range(low, high, ',.4f').replace('to ', 'to $')}"
    about = f", about ${total['dollars']:,.4f}" if low is not None and low < high else ""
    line = f"To pay: {cost}{about}; spent so far: ${spent:,.4f}; "
    if budget is None:
        return line + "no `budget` is set."
    line += f"budget: ${budget:,.4f}, "
    if low is None:
        return line + "which stops the build when it is spent."
    if spent + high <= budget:
        return line + "which suffices."
    return line + ("which may not suffice." if spent + low <= budget else "which does not suffice.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the estimate of a config."""
    parser = argparse.ArgumentParser(prog="make estimate", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    try:
        estimator = Estimator(load_file(options.config))
        corpora = estimator.jobs()
        total = estimator.total(corpora)
        total["predicted"] = compared(estimator.cfg.name, total)
        noted(estimator.cfg.name, total)
    except UserError as error:
        sys.exit(str(error))
    finally:
        logging.disable(logging.NOTSET)
    if options.json:
        print(json.dumps({"experiment": estimator.cfg.name, "corpora": corpora, "total": total}, indent=2))
    else:
        print(legible("\n".join([*lines_of(corpora), *before_and_after(total), within_budget(total)])))


if __name__ == "__main__":
    main()
