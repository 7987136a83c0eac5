"""A model of lm-eval's own interface, whose answers come out of the journal.

Tokens of prompts and continuations are those of lm-eval's `hf` model, by its own code; only what would run the model
asks an `Asker` instead. So a request is known by its tokens, whatever task, order or batch it comes in.
"""

import functools
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    configure_pad_token,
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)

from moult.base.errors import UserError
from moult.base.files import derive_seed, read_json
from moult.inference.asking import Asker
from moult.inference.requests import CompletionRequest, ContinuationRequest, Sampling

# What transformers draws from where neither the task nor the model says so.
TOP_K = 50
# Settings of generation that are taken; others are refused unless they are as good as off.
TAKEN = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "until", "max_gen_toks")
OFF = {"num_beams": 1, "num_return_sequences": 1, "use_cache": True, "early_stopping": False, "length_penalty": 1.0}


class JournalModel(HFLM):
    """A model of this build. scoring, writing: the Askers for log-likelihoods and for text; they may differ in engine.

    cut: requests whose context lost its beginning, because it did not fit into the model.
    """

    backend = "causal"

    def __init__(self, folder: str | Path, scoring: Asker, writing: Asker, seed: int) -> None:
        from transformers import AutoConfig, AutoTokenizer

        # Not that of HFLM, which loads the weights.
        TemplateLM.__init__(self)
        self._config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if getattr(self._config, "is_encoder_decoder", False):
            raise UserError(
                f"{folder}: has an encoder, which lm-eval's suites are not run on here; name another model."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: has no tokenizer that can be read; put its files into the model.") from error
        self.tokenizer = configure_pad_token(tokenizer, model_config=self._config)
        declared = Path(folder, "generation_config.json")
        self.declared = read_json(declared) if declared.exists() else {}
        self.scoring, self.writing, self.seed, self.cut = scoring, writing, seed, 0
        self.custom_prefix_token_id = self.add_bos_token = self._max_length = self.enable_thinking = None
        self.chat_template_args: dict[str, Any] = {}
        self.dtype = scoring.endpoint["compute"]["dtype"]
        # The choices of a document come with its context, one after another.
        self._encoded = functools.lru_cache(maxsize=64)(super().tok_encode)

    @property
    def max_length(self) -> int:
        """Tokens that the model takes."""
        return resolve_max_length(self._config, self.tokenizer, default=self._DEFAULT_MAX_LENGTH)

    @property
    def batch_size(self) -> int:
        """All requests are handed on at once; the engine makes batches of them."""
        return sys.maxsize

    def get_model_info(self) -> dict[str, Any]:
        """Return what stands in the results beside the settings."""
        return {"model_dtype": f"torch.{self.dtype}"}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the tokens of a text, as HFLM does."""
        return self._encoded(string, add_special_tokens, **kwargs)

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None) -> Any:
        asked = []
        # vLLM writes a token more than it is asked to score.
        room = self.max_length - (1 if self.scoring.endpoint["compute"]["engine"] == "vllm" else -1)
        for texts, context, continuation in requests:
            if not 0 < len(continuation) < room:
                raise UserError(
                    f"lm-eval: the continuation {str(texts and texts[1])[:40]!r} has {len(continuation)} tokens, "
                    f"and the model scores 1 to {room - 1}; correct the task's choices or targets."
                )
            whole = [*context, *continuation]
            self.cut += len(whole) > room
            whole = whole[-room:]
            place = len(whole) - len(continuation)
            asked.append(ContinuationRequest(tuple(whole[:place]), tuple(continuation)))
        return [(score, bool(greedy)) for score, greedy in self.scoring.continuations(asked)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the text that each request's context is continued with, up to the first of its stop strings."""
        end = self.tok_decode([self.eot_token_id], skip_special_tokens=False) if self.eot_token_id is not None else None
        asked, stops, seen = [], [], Counter()
        for request in requests:
            context, settings = request.args
            kwargs: dict[str, Any] = dict(normalize_gen_kwargs(settings, self.max_gen_toks))
            stops.append(handle_stop_sequences(kwargs.pop("until"), eos=end))
            longest = kwargs.pop("max_gen_toks")
            if longest >= self.max_length:
                raise UserError(
                    f"lm-eval: task {request.task_name!r} wants answers of {longest} tokens, and the model takes "
                    f"{self.max_length} with the prompt; set a smaller `max_gen_toks` under `gen_kwargs`."
                )
            ids = self._context(context, self.max_length - longest)
            sampling = self._sampling(kwargs, longest, request.task_name)
            number = 0
            if sampling.temperature:
                # Each repeat draws anew.
                number = derive_seed(self.seed, [ids, vars(sampling), stops[-1]], seen[tuple(ids)])
                seen[tuple(ids)] += 1
            asked.append(CompletionRequest(tuple(ids), tuple(filter(None, stops[-1])), sampling, number))
        answers = self.writing.completions(asked)
        if failed := next((answer["error"] for answer in answers if answer["finish_reason"] == "error"), None):
            raise UserError(f"lm-eval: a prompt could not be answered: {failed}.")
        return [
            postprocess_generated_text(answer["text"], stop=until, think_end_token=None)
            for answer, until in zip(answers, stops, strict=True)
        ]

    def _context(self, text: str, room: int) -> list[int]:
        whole = self.tok_batch_encode([text])[0][0].tolist() if text else [self.prefix_token_id]
        self.cut += len(whole) > room
        return whole[-room:]

    def _sampling(self, kwargs: dict[str, Any], longest: int, task: str | None) -> Sampling:
        """Return how a text is decoded: as the task says, and otherwise as the model's generation config does."""
        for key, value in kwargs.items():
            if key not in TAKEN and value != OFF.get(key):
                raise UserError(
                    f"lm-eval: task {task!r} generates with {key} {value!r}, which is not known here; the settings "
                    f"are {', '.join(TAKEN)}."
                )
        said = {key: value for key, value in self.declared.items() if key in TAKEN} | kwargs
        penalty = float(said.get("repetition_penalty") or 1.0)
        if not kwargs.get("do_sample") or not said.get("temperature", 1.0):
            return Sampling(max_tokens=longest, repetition_penalty=penalty)
        return Sampling(
            temperature=float(said.get("temperature", 1.0)),
            top_p=float(said.get("top_p", 1.0)),
            top_k=int(said.get("top_k", TOP_K)),
            max_tokens=longest,
            repetition_penalty=penalty,
        )


def template_of(model: JournalModel, asked: Sequence[Any] | bool | str) -> str | None:
    """Return the chat template that prompts are put in, None where they are put in none."""
    return model.chat_template(asked) if asked else None
