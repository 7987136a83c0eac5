"""What an experiment would ask and pay: `python -m moult.planning.estimate CONFIG [--json]`.

It sends no request and changes no file.
"""

import argparse
import functools
import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.base.stage import Ref
from moult.config.experiment import Config
from moult.config.load import load_file
from moult.inference.asking import identity_of
from moult.inference.journal import copy_of
from moult.inference.recipes import client_of, spending_folder
from moult.inference.requests import ChatRequest, request_key
from moult.inference.spending import cost_of, spending_in
from moult.inference.tokens import prompt_ids
from moult.stages import STAGES
from moult.stages.foreseen import prepared_questions, rows_of

# Of English prose; code has fewer, Chinese one or two.
CHARACTERS_PER_TOKEN = 4
UNKNOWN = "rows answered ask prompt_tokens answer_tokens_low answer_tokens_high dollars_low dollars_high".split()
COLUMNS = ("corpus", "endpoint", "rows", "answered", "to ask", "prompt tokens", "answer tokens", "US dollars")


class Known:
    """What there is so far of what a job asks about, and what has to be said of it."""

    def __init__(self, estimator: "Estimator") -> None:
        self.estimator = estimator
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """Say something under the line of the job."""
        self.notes.append(sentence)

    def rows(self, reference: Ref) -> list[Any] | None:
        """Return the rows of an artefact, None where it is not written yet."""
        path = self.estimator.results / reference.path
        return read_jsonl(path) if path.exists() else None

    def questions(self, dataset: str, splits: Sequence[str]) -> list[Any] | None:
        """Return the questions, or judged items, of a dataset's splits; None, and a note, where they cannot be had."""
        try:
            rows, origin = self.estimator.questions(dataset)
        except UserError as error:
            self.note(f"rows unknown: {error}")
            return None
        if origin:
            self.note(origin)
        return [row for row in rows if row["split"] in splits]


class Estimator:
    """Looks at a config, its results so far and its journals."""

    def __init__(self, cfg: Config) -> None:
        self.cfg, self.results = cfg, Path("results", cfg.name)
        self.questions, self.tokenizer = functools.cache(self._questions), functools.cache(self._tokenizer)

    def jobs(self) -> list[dict[str, Any]]:
        """Return what each job that asks endpoints would ask and cost, as plain JSON; None stands for unknown."""
        asking = [stage for stage in STAGES if stage.asks is not None]
        jobs = [self._job(stage, names) for stage in asking for names in stage.planned(self.cfg)]
        return [job for job in jobs if job]

    def _job(self, stage, names):
        known = Known(self)
        asking = stage.asks(self.cfg, known, *names)
        if asking is None:
            return None
        clients = {part: client_of(self.cfg, name) for part, name in asking.endpoints.items()}
        found = {"corpus": "/".join(names), "endpoint": " and ".join(asking.endpoints.values())}
        journal = Path("journal", stage.rule, f"{'/'.join(names)}.sqlite")
        if len(clients) > 1:
            return found | self._bounded(asking, clients, journal, known.notes)
        return found | self._asking(asking, clients["endpoint"], journal, known.notes)

    def total(self, corpora: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the sum over corpora, what was spent before, and the budget; null where a part is unknown."""
        sums = {}
        for bound in ("dollars_low", "dollars_high"):
            parts = [corpus[bound] for corpus in corpora]
            sums[bound] = None if None in parts else sum(parts)
        spent = spending_in(spending_folder(self.cfg))
        return sums | {"spent": spent, "budget": self.cfg.budget}

    def _asking(self, asking, client, journal, notes):
        """Return what the requests of one endpoint cost, of those that the journal lacks."""
        (endpoint,) = asking.endpoints.values()
        found = {"mode": client["mode"] if client else "served"} | dict.fromkeys(UNKNOWN) | {"notes": notes}
        if not client:
            found |= {"dollars_low": 0.0, "dollars_high": 0.0}
        elif not client["price"]:
            notes.append(f"price unknown: set `price` of the endpoint {endpoint}")
        if asking.plans is None:
            return found
        requests, longest, *_ = asking.plans["endpoint"]
        keys = self._keys(requests, asking.recipe["endpoint"], notes) if asking.exact else None
        known, mean = self._journal(journal, keys, notes)
        missing = dict(zip(keys, requests, strict=True)) if keys else dict(enumerate(requests))
        missing = [request for key, request in missing.items() if key not in known]
        prompt = self._prompt_tokens(missing, asking.recipe["endpoint"], notes)
        answer = [round(len(missing) * min(mean or 0, longest)), len(missing) * longest]
        found |= {
            "rows": len(requests),
            "answered": len(known) if keys else None,
            "ask": len(missing),
            "prompt_tokens": prompt,
            "answer_tokens_low": answer[0],
            "answer_tokens_high": answer[1],
        }
        if mean:
            notes.append(f"{mean:.0f} tokens an answer so far, from the journal: the lower figure")
        if client and client["price"]:
            for bound, tokens, more in zip(("dollars_low", "dollars_high"), answer, asking.extra, strict=True):
                found[bound] = cost_of(client["price"], prompt + len(missing) * more, tokens)
        return found

    def _bounded(self, asking, clients, journal, notes):
        """Return what several endpoints cost whose prompts gain what was answered before: each request once at least,
        as often as its plan says at most."""
        remote = [part for part, client in clients.items() if client]
        money = None if remote else 0.0
        found = {"mode": "refined"} | dict.fromkeys(UNKNOWN)
        found |= {"dollars_low": money, "dollars_high": money, "notes": notes}
        if asking.plans is None:
            return found
        plans = asking.plans
        counts = {part: len(plan.requests) for part, plan in plans.items()}
        found |= {"rows": counts["endpoint"], "prompt_tokens": 0, "answer_tokens_low": 0}
        found["ask"] = sum(plan.times * counts[part] for part, plan in plans.items())
        found["answer_tokens_high"] = sum(plan.times * counts[part] * plan.longest for part, plan in plans.items())
        low = high = 0.0
        for part, plan in plans.items():
            prompt = characters_as_tokens(plan.requests)
            most = plan.times * prompt + plan.gains * counts[part]
            found["prompt_tokens"] += most
            if (client := clients[part]) and client["price"]:
                low += cost_of(client["price"], prompt, 0)
                high += cost_of(client["price"], most, plan.times * counts[part] * plan.longest)
        unpriced = [asking.endpoints[part] for part in remote if not clients[part]["price"]]
        if unpriced:
            notes.append(f"price unknown: set `price` of the endpoint {', '.join(unpriced)}")
        elif remote:
            found |= {"dollars_low": 0.0 if journal.exists() else low, "dollars_high": high}
        often = max(plan.times for plan in plans.values())
        notes.append(
            f"counted with {often} answers and verdicts per row, the most that is asked, whatever is answered yet"
        )
        notes.append(f"prompt tokens at about {CHARACTERS_PER_TOKEN} characters per token")
        return found

    def _questions(self, name):
        """Return (all rows of a dataset as prompts need them, a note or None); UserError where they cannot be had."""
        prepared = self.results / "datasets" / name
        if Path(f"{prepared}.manifest.json").exists():
            return rows_of(prepared, self.cfg.find("datasets", name).shape), None
        raw = self.results / "raw" / name
        rows = prepared_questions(self.cfg, name, raw if Path(f"{raw}.manifest.json").exists() else None)
        return rows, f"dataset {name} is not prepared yet, counted from its raw files"

    def _served(self, endpoint):
        return self.results / "models" / endpoint["serve"]

    def _keys(self, requests, endpoint, notes):
        """Return the journal's keys of requests, None where the model that answers is not built yet."""
        manifest = None if "url" in endpoint else Path(f"{self._served(endpoint)}.manifest.json")
        if manifest and not manifest.exists():
            notes.append(f"the model {endpoint['serve']} is not built yet: which rows are answered already is unknown")
            return None
        identity = identity_of(endpoint, manifest)
        return [request_key(request, identity) for request in requests]

    def _journal(self, path, keys, notes):
        """Return (keys that are answered, mean tokens of this job's answers or None)."""
        mean = "SELECT AVG(json_extract(answer, '$.completion_tokens')) FROM answers WHERE json_valid(answer)"
        try:
            with copy_of(path) as journal:
                return set(journal.known(keys or [])), journal.connection.execute(mean).fetchone()[0]
        except FileNotFoundError:
            return set(), None
        except BlockingIOError:
            notes.append(f"{path} is in use by a running build, not counted")
            return set(), None

    def _prompt_tokens(self, requests, endpoint, notes):
        if not requests:
            return 0
        if "serve" in endpoint and Path(f"{self._served(endpoint)}.manifest.json").exists():
            tokenizer = self.tokenizer(self._served(endpoint))
            return sum(len(prompt_ids(tokenizer, list(request.messages))) for request in requests)
        notes.append(f"prompt tokens at about {CHARACTERS_PER_TOKEN} characters per token")
        return characters_as_tokens(requests)

    def _tokenizer(self, folder):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def characters_as_tokens(requests: Iterable[ChatRequest]) -> int:
    """Return about how many tokens the prompts of requests have."""
    texts = (message["content"] for request in requests for message in request.messages)
    return sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts)


def lines_of(corpora: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the table, and each corpus' notes under it."""
    cells = [COLUMNS]
    for corpus in corpora:
        endpoint = f"{corpus['endpoint']} ({corpus['mode']})"
        counts = [_number(corpus[name]) for name in ("rows", "answered", "ask", "prompt_tokens")]
        tokens = _range(corpus["answer_tokens_low"], corpus["answer_tokens_high"], ",")
        money = _range(corpus["dollars_low"], corpus["dollars_high"], ",.4f")
        cells.append((corpus["corpus"], endpoint, *counts, tokens, money))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return lines + [f"- {corpus['corpus']}: {note}" for corpus in corpora for note in corpus["notes"]]


def _number(value):
    return "unknown" if value is None else f"{value:,}"


def _range(low, high, style):
    if low is None or high is None:
        return "unknown"
    return f"{high:{style}}" if low == high else f"{low:{style}} to {high:{style}}"


def within_budget(total: Mapping[str, Any]) -> str:
    """Return the last line: all that is to be paid, against what is left of the budget."""
    low, high, spent, budget = (total[name] for name in ("dollars_low", "dollars_high", "spent", "budget"))
    cost = "unknown" if low is None else f"${_range(low, high, ',.4f').replace('to ', 'to $')}"
    line = f"To pay: {cost}; spent so far: ${spent:,.4f}; "
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
    except UserError as error:
        sys.exit(str(error))
    finally:
        logging.disable(logging.NOTSET)
    if options.json:
        print(json.dumps({"experiment": estimator.cfg.name, "corpora": corpora, "total": total}, indent=2))
    else:
        print("\n".join([*lines_of(corpora), within_budget(total)]))


if __name__ == "__main__":
    main()
