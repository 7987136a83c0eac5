"""What an experiment would ask and pay: `python -m moult.planning.estimate CONFIG [--json]`.

It sends no request and changes no file.
"""

import argparse
import functools
import json
import logging
import math
import sys
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import read_jsonl
from moult.config.load import load_file
from moult.evaluation.judging import answers_in, drawn, planned
from moult.inference.asking import identity_of
from moult.inference.journal import copy_of
from moult.inference.recipes import client_of, spending_folder
from moult.inference.requests import request_key
from moult.inference.spending import cost_of, spending_in
from moult.inference.tokens import prompt_ids
from moult.stages import BY_RULE
from moult.stages.foreseen import prepared_questions, rows_of

# Of English prose; code has fewer, Chinese one or two.
CHARACTERS_PER_TOKEN = 4
COLUMNS = ("corpus", "endpoint", "rows", "answered", "to ask", "prompt tokens", "answer tokens", "US dollars")


class Estimator:
    """Looks at a config, its results so far and its journals."""

    def __init__(self, cfg):
        self.cfg, self.results = cfg, Path("results", cfg.name)
        self.questions, self.tokenizer = functools.cache(self._questions), functools.cache(self._tokenizer)

    def corpora(self):
        """Return what each corpus and each judge would ask and cost, as plain JSON; None stands for unknown."""
        found = [self._corpus(entry) for entry in self.cfg.corpora]
        pairs = [pair for pair, against in self.cfg.judged.items() if pair[1] != against]
        return found + [self._judgements(*pair) for pair in pairs]

    def total(self, corpora):
        """Return the sum over corpora, what was spent before, and the budget; null where a part is unknown."""
        sums = {}
        for bound in ("dollars_low", "dollars_high"):
            parts = [corpus[bound] for corpus in corpora]
            sums[bound] = None if None in parts else sum(parts)
        spent = spending_in(spending_folder(self.cfg))
        return sums | {"spent": spent, "budget": self.cfg.budget}

    def _corpus(self, entry):
        recipe, notes = entry.recipe(self.cfg), []
        writes_to = Path("journal", entry.rule, f"{entry.name}.sqlite")
        if any(plan.gains for plan in entry.plans(recipe, []).values()):
            return self._bounded(entry, recipe, writes_to, notes)
        rows, exact, extra = self._rows(entry, notes)
        plan = entry.plans(recipe, rows or [])["endpoint"]
        requests = None if rows is None else plan.requests
        return self._asking(entry.name, entry, recipe, requests, plan.longest, exact, extra, writes_to, notes)

    def _judgements(self, suite, name):
        judge, recipe = self.cfg.find("suites", suite).judge, BY_RULE["judge_answers"].recipe(self.cfg, suite, name)
        notes, requests, exact, longest = [], None, True, 0
        rows = [self._noted(dataset, [judge.split], notes) for dataset in judge.datasets]
        if None not in rows:
            questions = drawn(recipe["questions"], [row for part in rows for row in part])
            sides = []
            for side in (recipe["model"], recipe["against"]):
                modelled = bool(self.cfg.evaluation_of[suite, name].models)
                written = self.results / (f"answers/{suite}" if modelled else "corpora") / f"{side}.jsonl"
                if written.exists():
                    sides.append(answers_in(written))
                    continue
                sides.append({row["uid"]: ("", None) for row in questions})
                asked = judge.answers if modelled else self.cfg.find("corpora", side)
                exact, longest = False, longest + asked.decoding.max_tokens
                notes.append(f"the answers of {side} are not written yet: counted with 0 to their max_tokens a request")
            requests = [request for *_, request in planned(recipe, questions, *sides)[0]]
        writes_to = Path("journal", "judge_answers", suite, f"{name}.sqlite")
        most, extra = judge.decoding.max_tokens, (0, longest)
        return self._asking(f"{suite}/{name}", judge, recipe, requests, most, exact, extra, writes_to, notes)

    def _asking(self, name, entry, recipe, requests, longest, exact, extra, writes_to, notes):
        """Return what requests cost (None: not known which).

        entry: has an endpoint. longest: tokens of an answer at most. exact, extra: see `_rows`. writes_to: the journal
        of the job that asks.
        """
        client = client_of(self.cfg, entry.endpoint)
        found = {"corpus": name, "endpoint": entry.endpoint, "mode": client["mode"] if client else "served"}
        empty = ("rows", "answered", "ask", "prompt_tokens", "dollars_low", "dollars_high")
        found |= dict.fromkeys(empty) | {"answer_tokens_low": None, "answer_tokens_high": None, "notes": notes}
        if not client:
            found |= {"dollars_low": 0.0, "dollars_high": 0.0}
        elif not client["price"]:
            notes.append(f"price unknown: set `price` of the endpoint {entry.endpoint}")
        if requests is None:
            return found
        keys = self._keys(requests, recipe["endpoint"], notes) if exact else None
        known, mean = self._journal(writes_to, keys, notes)
        missing = dict(zip(keys, requests, strict=True)) if keys else dict(enumerate(requests))
        missing = [request for key, request in missing.items() if key not in known]
        prompt = self._prompt_tokens(missing, recipe["endpoint"], notes)
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
            for bound, tokens, more in zip(("dollars_low", "dollars_high"), answer, extra, strict=True):
                found[bound] = cost_of(client["price"], prompt + len(missing) * more, tokens)
        return found

    def _bounded(self, entry, recipe, writes_to, notes):
        """Return the cost of a corpus whose prompts grow by earlier answers: each request is asked at least once, and
        at most as often as its plan says."""
        clients = {field: client_of(self.cfg, name) for field, name in entry.endpoints.items()}
        remote = [field for field, client in clients.items() if client]
        found = {"corpus": entry.name, "endpoint": " and ".join(entry.endpoints.values()), "mode": entry.kind}
        empty = ("rows", "answered", "ask", "prompt_tokens", "answer_tokens_low", "answer_tokens_high")
        money = None if remote else 0.0
        found |= dict.fromkeys(empty) | {"dollars_low": money, "dollars_high": money, "notes": notes}
        rows = self._noted(self.cfg.corpus_dataset(entry.name).name, entry.splits, notes)
        if rows is None:
            return found
        plans = entry.plans(recipe, rows)
        counts = {field: len(plan.requests) for field, plan in plans.items()}
        found |= {"rows": counts["endpoint"], "prompt_tokens": 0, "answer_tokens_low": 0}
        found["ask"] = sum(plan.times * counts[field] for field, plan in plans.items())
        found["answer_tokens_high"] = sum(plan.times * counts[field] * plan.longest for field, plan in plans.items())
        low = high = 0.0
        for field, plan in plans.items():
            prompt = characters_as_tokens(plan.requests)
            most = plan.times * prompt + plan.gains * counts[field]
            found["prompt_tokens"] += most
            if (client := clients[field]) and client["price"]:
                low += cost_of(client["price"], prompt, 0)
                high += cost_of(client["price"], most, plan.times * counts[field] * plan.longest)
        unpriced = [entry.endpoints[field] for field in remote if not clients[field]["price"]]
        if unpriced:
            notes.append(f"price unknown: set `price` of the endpoint {', '.join(unpriced)}")
        elif remote:
            found |= {"dollars_low": 0.0 if writes_to.exists() else low, "dollars_high": high}
        often = max(plan.times for plan in plans.values())
        notes.append(
            f"counted with {often} answers and verdicts per row, the most that is asked, whatever is answered yet"
        )
        notes.append(f"prompt tokens at about {CHARACTERS_PER_TOKEN} characters per token")
        return found

    def _rows(self, entry, notes):
        """Return (rows or None, whether exactly these rows will be asked, tokens per row that are not in them yet: at
        least, at most)."""
        if not entry.asked:
            return self._noted(entry.dataset, entry.splits, notes), True, (0, 0)
        written = self.results / "corpora" / f"{entry.asked}.jsonl"
        if written.exists():
            return [row for row in read_jsonl(written) if row["split"] in entry.splits], True, (0, 0)
        source = self.cfg.find("corpora", entry.asked)
        rows, _, extra = self._rows(source, notes)
        rows = rows and [row for row in rows if row["split"] in entry.splits]
        if source.writes != "guidelines":
            notes.append(f"the corpus {source.name} is not written yet: which rows are answered already is unknown")
            return rows, False, extra
        notes.append(
            f"the guidelines {source.name} are not written yet: counted with 0 to {source.decoding.max_tokens} tokens "
            "a row; which rows are answered already is unknown"
        )
        return rows, False, (0, source.decoding.max_tokens)

    def _noted(self, dataset, splits, notes):
        try:
            rows, origin = self.questions(dataset)
        except UserError as error:
            notes.append(f"rows unknown: {error}")
            return None
        if origin:
            notes.append(origin)
        return [row for row in rows if row["split"] in splits]

    def _questions(self, name):
        """Return (all rows of a dataset as prompts need them, a note or None); UserError where they cannot be had."""
        prepared = self.results / "datasets" / name
        if Path(f"{prepared}.manifest.json").exists():
            return rows_of(prepared), None
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
        mean = "SELECT AVG(json_extract(answer, '$.completion_tokens')) FROM answers"
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


def characters_as_tokens(requests):
    """Return about how many tokens the prompts of requests have."""
    texts = (message["content"] for request in requests for message in request.messages)
    return sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) for text in texts)


def lines_of(corpora):
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


def within_budget(total):
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


def main(arguments=None):
    """Print the estimate of a config."""
    parser = argparse.ArgumentParser(prog="make estimate", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    try:
        estimator = Estimator(load_file(options.config))
        corpora = estimator.corpora()
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
