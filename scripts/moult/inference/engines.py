"""Local generation: chat answers and exact label log-likelihoods, by transformers (CPU, one GPU) or vLLM (GPUs)."""

import inspect
import json
import logging
import math
import os
import time
from pathlib import Path

from moult.base.errors import UserError
from moult.base.files import digest, read_json
from moult.base.lean_imports import without, without_compiler
from moult.data.prompts import videos_of
from moult.inference.requests import Answer
from moult.inference.tokens import end_of_turn_id, prompt_ids
from moult.inference.vision import Vision, auto_class
from moult.weights.fetch import check_model_folder

# Raise when the same request would now be answered differently.
VERSION = 1
logger = logging.getLogger(__name__)


def load_engine(model, *, engine="transformers", dtype="float32", batch_size=8, threads=1, frames=None):
    """Load the model folder `model` and return its engine.

    `dtype` is torch's name. `batch_size` and `threads` are those of `transformers`; vLLM sees to both itself. `frames`
    (a `videos.Frames`) is where the videos of requests are found. UserError when the folder is no whole model in
    safetensors, or vLLM is wanted and not installed.
    """
    vision = Vision(model, frames) if frames and frames.files else None
    loaded = VllmEngine(model, dtype) if engine == "vllm" else TransformersEngine(model, dtype, batch_size, threads)
    loaded.vision = vision
    logger.info("ready: %s is loaded", model)
    return loaded


class Engine:
    """What the engines share: prompts' tokens, the batch plan, and the form of what they yield.

    An engine has `tokenizer`, `limit` (tokens of prompt and answer together), `batch_size`, and two methods that
    take one batch: `_complete(prompts, requests)` → per row (new token ids, None or why it failed), and
    `_score(prompts, labels, requests)` → per row one log-likelihood per label. Prompts and labels are lists of token
    ids; a prompt holds as many placeholders for a video as the model has embeddings for it. `vision` is there when
    requests may show videos.
    """

    vision = None

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

    def _prompt(self, request):
        ids, videos = prompt_ids(self.tokenizer, list(request.messages)), videos_of(request.messages)
        return self.vision.expand(ids, videos) if videos else ids

    def answer(self, requests, missing=None):
        """Yield lists of (index, Answer), a batch at a time, of the `missing` requests (default: all).

        The batches are planned over all requests, whatever their order and whichever are missing. Token counts
        include the token that ended the turn. A request that does not fit into the model is an Answer with an error.
        """
        prompts = [self._prompt(request) for request in requests]
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
        prompts = [self._prompt(request) for request in requests]
        labels = [[self._label_ids(label) for label in request.labels] for request in requests]
        room = [max(map(len, ids)) for ids in labels]

        def work(rows):
            scores = self._score(*([values[row] for row in rows] for values in (prompts, labels, requests)))
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
        for batch in self._batches(requests, plan):
            rows = [row for row in batch if row in missing]
            if not rows:
                continue
            values, spent = work(rows)
            done, tokens, now = done + len(rows), tokens + spent, time.monotonic()
            if now - spoken > 10 or done == wanted:
                logger.info("%d of %d rows, %.0f tokens/s", done, wanted, tokens / (now - begun))
                spoken = now
            yield list(zip(rows, values, strict=True))

    def _batches(self, requests, plan):
        """Yield the rows of a plan, a batch at a time: of one way to search, a beam counting as a row."""
        ways = {}
        for row in plan:
            sampling = getattr(requests[row], "sampling", None)
            searched = sampling and sampling.beams > 1
            way = (sampling.beams, sampling.length_penalty, sampling.max_tokens) if searched else (1,)
            ways.setdefault(way, []).append(row)
        for (beams, *_), rows in ways.items():
            size = max(1, self.batch_size // beams)
            for start in range(0, len(rows), size):
                yield rows[start : start + size]

    def _refusal(self, prompt, room):
        reason = f"a prompt of {len(prompt)} tokens leaves no room for {room} more in the model's {self.limit}"
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

        with without("scipy", "torch_distributed"), without_compiler():
            import transformers.masking_utils
            import transformers.modeling_utils
        from transformers import GenerationConfig

        super().__init__(folder)
        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        with without_compiler():
            model = auto_class(folder).from_pretrained(
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
        # The batches have one way to search.
        sampling = requests[0].sampling
        choosing = {"logits_processor": [TokenChooser(requests, matchers, self.stops, width)]}
        choosing["stopping_criteria"] = [lambda ids, _: ids.shape[1] - width >= room]
        searching = {"num_beams": sampling.beams, "length_penalty": sampling.length_penalty}
        settings = GenerationConfig(
            max_new_tokens=int(room.max()),
            do_sample=False,
            eos_token_id=self.stops,
            pad_token_id=self.pad,
            **(searching if sampling.beams > 1 else {}),
        )
        with torch.inference_mode():
            out = self.model.generate(
                ids.to(self.model.device),
                **self._seen(ids, requests),
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
                **({} if sampling.beams > 1 else choosing),
            )
        failed = [matcher.get_error() if matcher else "" for matcher in matchers]
        return [
            (row[width : width + request.sampling.max_tokens], f"structured output: {error}" if error else None)
            for row, request, error in zip(out.tolist(), requests, failed, strict=True)
        ]

    def _seen(self, ids, requests):
        """Return what the model takes beside the tokens: the videos of the requests."""
        if self.vision is None:
            return {}
        inputs = self.vision.inputs(ids, [videos_of(request.messages) for request in requests])
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def _matcher(self, request):
        """Return what knows the tokens that may follow in a structured answer, None for a free one."""
        if request.schema is None and request.choices is None:
            return None
        if request.sampling.beams > 1:
            raise UserError("beam search enforces no structure: ask with beams 1.")
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

    def _score(self, prompts, labels, requests):
        """Score all labels of a batch in one forward pass: each stands behind the prompt and sees it and itself."""
        import torch

        self._check_tree_mask()
        # Prompts end and labels begin at column `width`, so one slice of logits serves all rows. The last token of
        # a label, the end of turn, is predicted and never read.
        width = max(map(len, prompts))
        length = width + max(sum(len(label) - 1 for label in row) for row in labels)
        rows = []
        for prompt, row in zip(prompts, labels, strict=True):
            left = [0] * (width - len(prompt))
            ids = [self.pad for _ in left] + prompt
            positions = left + list(range(len(prompt)))
            owners = left + [1] * len(prompt)  # 0 is padding, 1 the prompt, each label has its own number
            for number, label in enumerate(row, start=2):
                ids += label[:-1]
                positions += range(len(prompt), len(prompt) + len(label) - 1)
                owners += [number] * (len(label) - 1)
            right = [0] * (length - len(ids))
            rows.append([ids + [self.pad for _ in right], positions + right, owners + right])
        ids, positions, owners = torch.tensor(rows, device=self.model.device).unbind(1)
        seen = self._seen(ids, requests)
        with torch.inference_mode():
            logits = self.model(
                ids,
                **seen,
                attention_mask=self._tree_mask(positions, owners),
                position_ids=self._spread(positions, ids, owners, seen) if seen else positions,
                logits_to_keep=length - width + 1,
                use_cache=False,
            ).logits
            return [self._label_sums(table, row) for table, row in zip(logits, labels, strict=True)]

    def _spread(self, positions, ids, owners, seen):
        """Return positions in time, height and width (3, rows, length) of a batch that shows videos.

        M-RoPE (Wang et al. 2024, arXiv 2409.12191): a video takes fewer positions than tokens, so each label moves
        by as much as its prompt does.
        """
        prompt = (owners == 1).long()
        spread, moved = self.model.model.get_rope_index(
            ids, seen["mm_token_type_ids"], video_grid_thw=seen["video_grid_thw"], attention_mask=prompt
        )
        return spread.where(owners == 1, positions + moved * (owners > 1))

    def _check_tree_mask(self):
        recurrent = self.model._is_stateful or not set(self._layer_kinds()) <= {"full_attention", "sliding_attention"}
        if recurrent or "position_ids" not in inspect.signature(self.model.forward).parameters:
            raise UserError(
                f"{self.config.model_type}: labels cannot be scored by likelihood with a model that is not attention "
                "over positions alone; use the method generate."
            )

    def _layer_kinds(self):
        sliding = getattr(self.config, "sliding_window", None)
        return getattr(self.config, "layer_types", None) or ["sliding_attention" if sliding else "full_attention"]

    def _tree_mask(self, positions, owners):
        """Return what is added to attention scores, (rows, 1, queries, keys), by kind of layer where there are two."""
        import torch

        own = owners[:, :, None] == owners[:, None, :]
        seen = (own | (owners[:, None, :] == 1)).tril()
        masks = {"full_attention": seen}
        if window := getattr(self.config, "sliding_window", None):
            masks["sliding_attention"] = seen & (positions[:, :, None] - positions[:, None, :] < window)
        dtype = self.model.dtype
        masks = {
            kind: torch.zeros_like(masks[kind], dtype=dtype).masked_fill(~masks[kind], torch.finfo(dtype).min)[:, None]
            for kind in set(self._layer_kinds())
        }
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _label_sums(self, logits, labels):
        """Return the log-likelihoods of a row's labels from the logits behind its prompt and all labels' tokens."""
        logits = logits[: 1 + sum(len(label) - 1 for label in labels)].float()
        norms = logits.logsumexp(-1)
        sums, place = [], 1
        for label in labels:
            columns = [0, *range(place, place + len(label) - 1)]
            place += len(label) - 1
            sums.append((logits[columns, label] - norms[columns]).double().sum().item())
        return sums


class TokenChooser:
    """A logits processor after which each row's choice is the argmax: structure first, then the row's own draw.

    A row's choice depends on its own request and scores, never on its neighbours in the batch.
    """

    def __init__(self, requests, matchers, stops, width):
        import numpy as np

        generators = [np.random.default_rng(request.seed) for request in requests]
        self.samplings = [request.sampling for request in requests]
        self.rows = dict(enumerate(zip(self.samplings, matchers, generators, strict=True)))
        self.stops, self.width = stops, width

    def __call__(self, ids, scores):
        """Return the scores (rows, vocabulary) of the next token, changed in place."""
        import torch

        new = ids.shape[1] - self.width
        for row, last in enumerate(ids[:, -1].tolist() if new else []):
            if last in self.stops or new >= self.samplings[row].max_tokens:
                self.rows.pop(row, None)
            elif row in self.rows and self.rows[row][1]:
                self.rows[row][1].consume_token(last)
        for row, (sampling, matcher, generator) in self.rows.items():
            if matcher or sampling.temperature:
                values = scores[row].cpu().numpy()
                values = allow(values, matcher) if matcher else values
                values = draw(values, sampling, generator) if sampling.temperature else values
                scores[row] = torch.from_numpy(values)
        return scores


def allow(scores, matcher):
    """Return one row of scores with minus infinity at each token that the structure forbids here."""
    import numpy as np

    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    allowed = np.unpackbits(bits, count=len(scores), bitorder="little")
    return np.where(allowed, scores, -np.inf).astype(np.float32)


def draw(scores, sampling, generator):
    """Return one row of scores so changed that its argmax is a draw by temperature, top-k, then top-p.

    Gumbel-max trick: log-probabilities plus independent Gumbel noise have their maximum at a token with just its
    probability. Each token gets its own noise, so scores that differ in their last bits rarely change the draw.
    """
    import numpy as np

    scores = scores / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        # numpy sorts one row ten times as fast as torch.
        ordered = np.sort(scores)[::-1][: sampling.top_k or None]
        mass = np.exp(ordered - ordered[0]).cumsum(dtype=np.float64)
        lowest = ordered[np.searchsorted(mass, sampling.top_p * mass[-1])]
        scores[scores < lowest] = -np.inf
    uniform = generator.random(len(scores), dtype=np.float32).clip(np.finfo(np.float32).tiny)
    return scores - np.log(-np.log(uniform))


class VllmEngine(Engine):
    """vLLM on the GPUs that the job sees."""

    # vLLM packs its own batches; this is how many rows it is given, and a journal can keep, at a time.
    batch_size = 512

    def __init__(self, folder, dtype):
        # Scheduling in this process is reproducible.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError:
            raise UserError("engine vllm: is not installed here; install it, or write engine: transformers.") from None
        import torch

        super().__init__(folder)
        self.llm = vllm.LLM(
            model=str(folder),
            dtype=dtype,
            tensor_parallel_size=torch.cuda.device_count(),
            seed=0,
            # The model's own sampling must not leak in.
            generation_config="vllm",
            # vLLM has returned stale prompt log-probabilities where a prefix was cached.
            enable_prefix_caching=False,
        )
        # Scoring a label generates one token more.
        self.limit = self.llm.llm_engine.model_config.max_model_len - 1

    def _complete(self, prompts, requests):
        outputs = self._run(prompts, [self._settings(request) for request in requests], requests)
        return [(list(output.outputs[0].token_ids), None) for output in outputs]

    def _settings(self, request):
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        structure = None
        if request.choices is not None:
            structure = StructuredOutputsParams(choice=list(request.choices))
        elif request.schema is not None:
            structure = StructuredOutputsParams(json=request.schema)
        sampling = request.sampling
        if sampling.beams > 1:
            raise UserError("beam search needs engine transformers; with vllm choose by consistency.")
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=request.seed,
            stop_token_ids=self.stops,
            structured_outputs=structure,
            detokenize=False,
        )

    def _score(self, prompts, labels, requests):
        from vllm import SamplingParams

        settings = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
        pairs = [(prompt, label) for prompt, row in zip(prompts, labels, strict=True) for label in row]
        asked = [request for request, row in zip(requests, labels, strict=True) for _ in row]
        outputs = self._run([prompt + label for prompt, label in pairs], [settings] * len(pairs), asked)
        sums = iter(
            sum(found[token].logprob for found, token in zip(output.prompt_logprobs[-len(label) :], label, strict=True))
            for output, (_, label) in zip(outputs, pairs, strict=True)
        )
        return [[next(sums) for _ in row] for row in labels]

    def _run(self, prompts, settings, requests):
        inputs = [self._input(ids, videos_of(request.messages)) for ids, request in zip(prompts, requests, strict=True)]
        return self.llm.generate(inputs, settings, use_tqdm=False)

    def _input(self, ids, videos):
        """Return one prompt as vLLM takes it; it puts in the placeholders of a video itself."""
        if not videos:
            return {"prompt_token_ids": ids}
        pictures = [self.vision.frames.pictures(seen) for seen in videos]
        # The frames are chosen and sized already.
        settings = {"do_resize": False, "do_sample_frames": False}
        return {
            "prompt_token_ids": self.vision.collapse(ids),
            "multi_modal_data": {"video": pictures},
            "mm_processor_kwargs": settings,
        }
