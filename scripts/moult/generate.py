"""Local generation: chat answers and exact label log-likelihoods, by transformers (CPU, one GPU) or vLLM (GPUs)."""

import json
import logging
import math
import sys
import time
from pathlib import Path

from moult.chat import Answer
from moult.errors import UserError
from moult.files import digest, read_json
from moult.models import check_model_folder
from moult.prompts import end_of_turn_id, prompt_ids

# Raise when the same request would now be answered differently.
VERSION = 1
logger = logging.getLogger(__name__)


def load_engine(model, *, engine="transformers", dtype="float32", batch_size=8, threads=1):
    """Load the model folder `model` and return its engine.

    `dtype` is torch's name. `batch_size` and `threads` are those of `transformers`; vLLM sees to both itself.
    UserError when the folder is no whole model in safetensors, or vLLM is wanted and not installed.
    """
    if engine == "vllm":
        return VllmEngine(model, dtype)
    return TransformersEngine(model, dtype, batch_size, threads)


class Engine:
    """What the engines share: prompts' tokens, the batch plan, and the form of what they yield.

    An engine has `tokenizer`, `limit` (tokens of prompt and answer together), `batch_size`, and two methods that
    take one batch: `_complete(prompts, requests)` → per row (new token ids, None or why it failed), and
    `_score(prompts, labels)` → per row one log-likelihood per label. Prompts and labels are lists of token ids.
    """

    def __init__(self, folder):
        from transformers import AutoTokenizer

        folder = Path(folder)
        check_model_folder(folder)
        if not (folder / "config.json").exists():
            raise UserError(f"{folder}: is an adapter without its base; fold it into the base first.")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.end_of_turn = end_of_turn_id(self.tokenizer)
        declared = folder / "generation_config.json"
        ends = read_json(declared).get("eos_token_id") if declared.exists() else None
        ends = ends if isinstance(ends, list) else [ends]
        self.stops = sorted({self.end_of_turn, self.tokenizer.eos_token_id, *ends} - {None})

    def answer(self, requests, missing=None):
        """Yield lists of (index, Answer), a batch at a time, of the `missing` requests (default: all).

        The batches are planned over all requests, whatever their order and whichever are missing. Token counts
        include the token that ended the turn. A request that does not fit into the model is an Answer with an error.
        """
        prompts = [prompt_ids(self.tokenizer, list(request.messages)) for request in requests]
        room = [request.sampling.max_tokens for request in requests]

        def work(rows):
            done = self._complete([prompts[row] for row in rows], [requests[row] for row in rows])
            answers = [self._answer(prompts[row], *completion) for row, completion in zip(rows, done, strict=True)]
            return answers, sum(answer.completion_tokens for answer in answers)

        yield from self._in_batches(requests, prompts, room, missing, work)

    def label_logprobs(self, requests, missing=None):
        """Yield lists of (index, one log-likelihood per label), planned and chosen as by `answer`.

        It is the exact sum of natural log-probabilities of the label's tokens and the end of turn, given the chat.
        A request that does not fit into the model is an Answer with an error.
        """
        prompts = [prompt_ids(self.tokenizer, list(request.messages)) for request in requests]
        labels = [[self._label_ids(label) for label in request.labels] for request in requests]
        room = [max(map(len, ids)) for ids in labels]

        def work(rows):
            scores = self._score([prompts[row] for row in rows], [labels[row] for row in rows])
            return scores, sum(len(prompts[row]) + sum(map(len, labels[row])) for row in rows)

        yield from self._in_batches(requests, prompts, room, missing, work)

    def _label_ids(self, label):
        """Return the tokens of a label as training sees them: control tokens spelt out, then the end of turn."""
        ids = self.tokenizer(label, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*ids, self.end_of_turn]

    def _in_batches(self, requests, prompts, room, missing, work):
        missing = set(range(len(requests)) if missing is None else missing)
        fitting = [row for row in range(len(requests)) if len(prompts[row]) + room[row] <= self.limit]
        refused = sorted(missing.difference(fitting))
        if refused:
            yield [(row, self._refusal(prompts[row], room[row])) for row in refused]
        # Longest first: what needs too much memory fails at once.
        plan = sorted(fitting, key=lambda row: (-len(prompts[row]), digest(requests[row].as_dict())))
        begun = spoken = time.monotonic()
        done, tokens, wanted = 0, 0, len(missing) - len(refused)
        for start in range(0, len(plan), self.batch_size):
            rows = [row for row in plan[start : start + self.batch_size] if row in missing]
            if not rows:
                continue
            values, spent = work(rows)
            done, tokens, now = done + len(rows), tokens + spent, time.monotonic()
            if now - spoken > 10 or done == wanted:
                logger.info("%d of %d rows, %.0f tokens/s", done, wanted, tokens / (now - begun))
                spoken = now
            yield list(zip(rows, values, strict=True))

    def _refusal(self, prompt, room):
        reason = f"{len(prompt)} tokens of prompt and {room} of answer do not fit into the model's {self.limit}"
        return Answer("", "error", prompt_tokens=len(prompt), error=reason)

    def _answer(self, prompt, ids, error):
        """Return the Answer to a prompt from its new tokens, which may go on after the one that ended the turn."""
        end = next((place for place, token in enumerate(ids) if token in self.stops), None)
        counts = {"prompt_tokens": len(prompt), "completion_tokens": len(ids) if end is None else end + 1}
        if error:
            return Answer("", "error", error=error, **counts)
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
        return Answer(text, "length" if end is None else "stop", **counts)


class TransformersEngine(Engine):
    """Hugging Face transformers on the CPU, or on the one CUDA device that the job sees."""

    def __init__(self, folder, dtype, batch_size, threads):
        import torch

        _import_modeling()
        from transformers import AutoModelForCausalLM, GenerationConfig
        from transformers.utils.logging import disable_progress_bar

        super().__init__(folder)
        torch.set_num_threads(threads)
        disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
        # generate() fills what a request leaves open from here: the model's own sampling must not leak in.
        model.generation_config = GenerationConfig()
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.config = model.config.get_text_config()
        self.batch_size = batch_size
        self.limit = getattr(self.config, "max_position_embeddings", None) or math.inf
        self.pad = self.stops[0] if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        self.grammar_tokenizer = None

    def _complete(self, prompts, requests):
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        room = torch.tensor([request.sampling.max_tokens for request in requests], device=self.model.device)
        matchers = [self._matcher(request) for request in requests]
        settings = GenerationConfig(
            max_new_tokens=int(room.max()), do_sample=False, eos_token_id=self.stops, pad_token_id=self.pad
        )
        with torch.inference_mode():
            out = self.model.generate(
                ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
                logits_processor=[TokenChooser(requests, matchers, self.stops, width)],
                stopping_criteria=[lambda ids, _: ids.shape[1] - width >= room],
            )
        failed = [matcher.get_error() if matcher else "" for matcher in matchers]
        return [
            (row[width : width + request.sampling.max_tokens], f"structured output: {error}" if error else None)
            for row, request, error in zip(out.tolist(), requests, failed, strict=True)
        ]

    def _matcher(self, request):
        """Return what knows the tokens that may follow in a structured answer, None for a free one."""
        if request.schema is None and request.choices is None:
            return None
        import llguidance
        import llguidance.hf

        if self.grammar_tokenizer is None:
            size = max(len(self.tokenizer), self.config.vocab_size)
            self.grammar_tokenizer = llguidance.hf.from_tokenizer(self.tokenizer, n_vocab=size, eos_token=self.stops)
        if request.choices is not None:
            words = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in request.choices)
            grammar = llguidance.LLMatcher.grammar_from_lark(f"start: {words}")
        else:
            # As json.dumps writes: a weak model that may put blanks anywhere can put them for ever.
            style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
            grammar = llguidance.LLMatcher.grammar_from_json_schema(request.schema, overrides=style)
        matcher = llguidance.LLMatcher(self.grammar_tokenizer, grammar, log_level=0)
        if matcher.is_error():
            wanted = request.schema if request.choices is None else request.choices
            raise UserError(f"structure {wanted} cannot be enforced ({matcher.get_error()}); write it more simply.")
        return matcher

    def _score(self, prompts, labels):
        import torch

        # Prompts end, and labels begin, at column `width`: one slice of logits serves all rows.
        width = max(map(len, prompts))
        # A label's last token, the end of turn, is only predicted.
        tails = [[ids[:-1] for ids in row] for row in labels]
        length = width + max(sum(map(len, row)) for row in tails)
        ids = torch.full((len(prompts), length), self.pad)
        positions = torch.zeros_like(ids)
        owner = torch.zeros_like(ids)  # 0 padding, 1 prompt, from 2 on the labels
        for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            begin = width - len(prompt)
            ids[row, begin:width] = torch.tensor(prompt)
            positions[row, begin:width] = torch.arange(len(prompt))
            owner[row, begin:width] = 1
            for number, label in enumerate(tail):
                begin, end = begin + (len(prompt) if number == 0 else 0), 0
                raise NotImplementedError
