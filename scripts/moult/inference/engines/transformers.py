"""Hugging Face transformers as an engine, on the CPU or on one GPU."""

import functools
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.lean_imports import hide_compiler, hide_packages
from moult.data.prompts import videos_of
from moult.inference.engines.base import Engine
from moult.inference.engines.caches import PIECE, growing_cache, most_tokens
from moult.inference.engines.sampling import TokenChooser, Until
from moult.inference.engines.trees import behind, pads, read_ahead, takes_tree, tree_mask
from moult.inference.requests import CompletionRequest
from moult.weights.architectures import auto_class, is_reward_model


class TransformersEngine(Engine):
    """Hugging Face transformers on the CPU, or on the one CUDA device that the job sees."""

    def __init__(self, folder: str | Path, dtype: str, batch_size: int, threads: int, bits: int | None = None) -> None:
        import torch

        with hide_packages("scipy", "torch_distributed"), hide_compiler():
            import transformers.masking_utils
            import transformers.modeling_utils
        from transformers import GenerationConfig

        super().__init__(folder)
        if is_reward_model(folder):
            raise UserError(f"{folder}: is a reward model, which scores answers and writes none; take another model.")
        torch.set_num_threads(threads)
        transformers.logging.disable_progress_bar()
        device, numbers = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, dtype)
        with hide_compiler():
            model = auto_class(folder).from_pretrained(
                folder,
                dtype=numbers,
                local_files_only=True,
                use_safetensors=True,
                **(quantised(bits, numbers, device) if bits else {}),
            )
        # generate() fills what a request leaves open from here: the model's own sampling must not leak in.
        model.generation_config = GenerationConfig()
        self.model = (model if bits else model.to(device)).eval()
        self.config = model.config.get_text_config()
        self.batch_size = batch_size
        self.limit = getattr(self.config, "max_position_embeddings", None) or math.inf
        pads = self.tokenizer.pad_token_id
        self.pad = (*self.stops, 0)[0] if pads is None else pads
        self.grammar_tokenizer = None
        # Tokens that were read ahead, and what the model made of them.
        self.read: tuple[list[int], Any] = [], None

    def close(self) -> None:
        self.model = self.grammar_tokenizer = None
        self.read = [], None
        super().close()

    def _complete(self, prompts, requests):
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        room = torch.tensor([request.sampling.max_tokens for request in requests], device=self.model.device)
        matchers = [self._matcher(request) for request in requests]
        # The batches have one way to search, and are of chats or of completions.
        sampling, until = requests[0].sampling, [getattr(request, "until", ()) for request in requests]
        stops = self.ends if isinstance(requests[0], CompletionRequest) else self.stops
        choosing = {"logits_processor": [TokenChooser(requests, matchers, stops, width)]}
        choosing["stopping_criteria"] = [lambda ids, _: ids.shape[1] - width >= room]
        ended = Until(until, self.tokenizer, width) if any(until) else None
        choosing["stopping_criteria"] += [ended] if ended else []
        searching = {"num_beams": sampling.beams, "length_penalty": sampling.length_penalty}
        read = self._read(ids, mask, sampling)
        settings = GenerationConfig(
            max_new_tokens=int(room.max()),
            do_sample=False,
            eos_token_id=stops,
            pad_token_id=self.pad,
            prefill_chunk_size=self._columns(len(prompts)) if read else None,
            **({"repetition_penalty": sampling.repetition_penalty} if sampling.repetition_penalty != 1 else {}),
            **(searching if sampling.beams > 1 else {}),
        )
        with torch.inference_mode():
            out = self.model.generate(
                ids.to(self.model.device),
                **self._seen(ids, requests),
                **read,
                attention_mask=mask.to(self.model.device),
                generation_config=settings,
                **({} if sampling.beams > 1 else choosing),
            )
        failed = [matcher.get_error() if matcher else "" for matcher in matchers]
        lengths = ended.lengths if ended else [None] * len(requests)
        return [
            (
                row[width : width + (length or request.sampling.max_tokens)],
                f"structured output: {error}" if error else None,
            )
            for row, request, error, length in zip(out.tolist(), requests, failed, lengths, strict=True)
        ]

    def _columns(self, rows):
        """Return how many tokens of each row are read at once, None for all: a card reads more the faster."""
        return max(1, PIECE // rows) if self.model.device.type == "cpu" else None

    def _read(self, ids, mask, sampling):
        """Return the cache of a batch, if it is to be ours. Where some prompts are equal, it holds what the model has
        made of all prompts but for their last tokens: each is read once, and taken by all its rows."""
        import torch

        chats, rows = torch.unique(torch.stack([ids, mask]), dim=1, return_inverse=True)
        shared = self.several and chats.shape[1] < len(ids) and ids.shape[1] > 1
        plain = self.vision is None and sampling.beams == 1 and self.pads and not self.model._is_stateful
        if not plain or not (shared or self.model.device.type == "cpu"):
            return {}
        cache = growing_cache(self.model, ids.shape[1])
        if shared:
            chats, rows = chats[:, :, :-1].to(self.model.device), rows.to(self.model.device)
            positions = (chats[1].cumsum(-1) - 1).clamp(min=0)
            size = self._columns(chats.shape[1]) or chats.shape[2]
            for start in range(0, chats.shape[2], size):
                end = start + size
                self.model.get_decoder()(
                    chats[0, :, start:end],
                    attention_mask=chats[1, :, :end],
                    position_ids=positions[:, start:end],
                    past_key_values=cache,
                    use_cache=True,
                )
            cache.batch_select_indices(rows)
        return {"past_key_values": cache}

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
        lead = self._blanks
        if request.choices is not None:
            words = " | ".join(json.dumps(lead + choice, ensure_ascii=False) for choice in request.choices)
            grammar = llguidance.LLMatcher.grammar_from_lark(f"start: {words}")
        else:
            # As json.dumps writes: a weak model that may put blanks anywhere can put them for ever.
            style = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
            form = json.dumps(request.schema | {"x-guidance": style})
            start = f"{json.dumps(lead)} form" if lead else "form"
            grammar = llguidance.LLMatcher.grammar_from_lark(f"start: {start}\nform: %json {form}")
        matcher = llguidance.LLMatcher(self.grammar_tokenizer, grammar, log_level=0)
        if matcher.is_error():
            wanted = request.schema if request.choices is None else request.choices
            raise UserError(f"structure {wanted} cannot be enforced ({matcher.get_error()}); write it more simply.")
        return matcher

    def _score(self, prompts, labels, requests):
        """Score all labels of a batch in one forward pass: each stands behind the prompt and sees it and itself. What
        the prompts share is read once, for this batch and those that follow."""
        import torch

        shared, self.shared = self.shared, 0
        if not self.takes_tree:
            return self._score_apart(prompts, labels)
        start = shared if shared and self.reads_ahead else 0
        read = self._ahead(prompts[0][:start]) if start else None
        prompts = [prompt[start:] for prompt in prompts]
        # Prompts end and labels begin at column `width`, so one slice of logits serves all rows. The last token of
        # a label, the end of turn, is predicted and never read.
        width = max(map(len, prompts))
        length = width + max(sum(len(label) - 1 for label in row) for row in labels)
        rows = []
        for prompt, row in zip(prompts, labels, strict=True):
            left = [0] * (width - len(prompt))
            ids = [self.pad for _ in left] + prompt
            positions = left + list(range(start, start + len(prompt)))
            owners = left + [1] * len(prompt)  # 0 is padding, 1 the prompt, each label has its own number
            for number, label in enumerate(row, start=2):
                ids += label[:-1]
                positions += range(start + len(prompt), start + len(prompt) + len(label) - 1)
                owners += [number] * (len(label) - 1)
            right = [0] * (length - len(ids))
            rows.append([ids + [self.pad for _ in right], positions + right, owners + right])
        ids, positions, owners = torch.tensor(rows, device=self.model.device).unbind(1)
        seen = self._seen(ids, requests)
        with torch.inference_mode():
            logits = self.model(
                ids,
                **seen,
                attention_mask=tree_mask(self.model, positions, owners, start),
                position_ids=self._spread(positions, ids, owners, seen) if seen else positions,
                logits_to_keep=length - width + 1,
                **({"past_key_values": behind(read), "use_cache": True} if read else {"use_cache": False}),
            ).logits
            return [self._label_sums(table, row) for table, row in zip(logits, labels, strict=True)]

    def _ahead(self, ids):
        """Return what the model makes of tokens; what it made last is kept."""
        import torch

        if self.read[0] != ids:
            self.read = [], None
            with torch.inference_mode():
                self.read = ids, read_ahead(self.model, ids)
        return self.read[1]

    @functools.cached_property
    def reads_ahead(self) -> bool:
        """Whether tokens may be read before those behind them: tried on a few, as models keep what they read in more
        ways than they tell."""
        import torch

        ids = [place % self.config.vocab_size for place in range(1, 9)]
        tokens = torch.tensor([ids[4:]], device=self.model.device)
        places = torch.arange(4, 8, device=self.model.device)[None]
        try:
            with torch.inference_mode():
                whole = self.model(torch.tensor([ids], device=self.model.device)).logits[0, 4:].float()
                read = behind(read_ahead(self.model, ids[:4]))
                mask = tree_mask(self.model, places, torch.ones_like(tokens), 4)
                settings = {"attention_mask": mask, "position_ids": places, "past_key_values": read}
                found = self.model(tokens, **settings, use_cache=True).logits[0].float()
        except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False
        # Of bfloat16 it is a hundredth.
        return bool((whole - found).std() <= 0.05 * whole.std())

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

    def _score_apart(self, prompts, labels):
        """Score each label in a sequence of its own: as exact, and as many times as dear as there are labels.

        Sequences of one length are batched: without padding it does not matter what a model makes of masks.
        """
        import torch

        pairs = [(prompt, label) for prompt, row in zip(prompts, labels, strict=True) for label in row]
        ids = [prompt + label[:-1] for prompt, label in pairs]
        sums = [(0.0, False)] * len(pairs)
        by_length = {}
        for at, row in enumerate(ids):
            by_length.setdefault(len(row), []).append(at)
        for places in by_length.values():
            for start in range(0, len(places), self.batch_size):
                batch = places[start : start + self.batch_size]
                with torch.inference_mode():
                    logits = self.model(torch.tensor([ids[at] for at in batch], device=self.model.device)).logits
                for at, row in zip(batch, logits, strict=True):
                    prompt, label = pairs[at]
                    sums[at] = self._label_sums(row[len(prompt) - 1 :], [label])[0]
        left = iter(sums)
        return [[next(left) for _ in row] for row in labels]

    @functools.cached_property
    def pads(self) -> bool:  # type: ignore[override]
        return pads(self.model)

    @functools.cached_property
    def most_tokens(self) -> float:  # type: ignore[override]
        known = self.model.device.type == "cpu" and self.pads and not self.model._is_stateful
        return most_tokens(self.model) if known else math.inf

    @functools.cached_property
    def takes_tree(self) -> bool:
        """Whether all labels of a prompt may stand in one sequence."""
        return takes_tree(self.model)

    def _label_sums(self, logits, labels):
        """Return the log-likelihoods of a row's labels from the logits behind its prompt and all labels' tokens, and
        whether each token is the likeliest."""
        logits = logits[: 1 + sum(len(label) - 1 for label in labels)].float()
        norms, likeliest = logits.logsumexp(-1), logits.argmax(-1).tolist()
        found, place = [], 1
        for label in labels:
            columns = [0, *range(place, place + len(label) - 1)]
            place += len(label) - 1
            score = (logits[columns, label] - norms[columns]).double().sum().item()
            found.append((score, [likeliest[column] for column in columns] == label))
        return found


def quantised(bits: int, dtype: Any, device: str) -> dict[str, Any]:
    """Return what loads a model with weights of 4 or 8 bits; UserError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("bits: bitsandbytes is not installed here; install it, or leave `bits` out.")
    from transformers import BitsAndBytesConfig

    settings = {"load_in_4bit": True, "bnb_4bit_compute_dtype": dtype} if bits == 4 else {"load_in_8bit": True}
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": device}}
