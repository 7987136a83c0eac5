"""Reward models: a number for an answer to a question, from a model of this build that writes no text."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import digest
from moult.inference.asking import Asker, ask_all
from moult.inference.requests import RewardRequest
from moult.inference.tokens import chat_tokens
from moult.weights.agreement import check_parts
from moult.weights.architectures import is_reward_model


def reward_request(question: str, answer: str) -> RewardRequest:
    """Return the request that scores an answer to a question."""
    return RewardRequest(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def chat_ids(tokenizer: Any, request: RewardRequest) -> list[int]:
    """Return the tokens of a chat up to the end of the answer's turn, by the model's own chat template."""
    *asked, answer = request.messages
    prompt, (said,) = chat_tokens(tokenizer).answered(asked, [answer["content"]])
    return prompt + said


class RewardModel:
    """A sequence classifier with one output, which is the reward. Answers are scored one by one, so that none depends
    on those beside it."""

    def __init__(self, folder: str | Path, *, dtype: str, threads: int) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        check_parts(folder)
        if not is_reward_model(folder):
            raise UserError(f"{folder}: is no reward model; take one that is saved for sequence classification.")
        torch.set_num_threads(threads)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
        if model.config.num_labels != 1:
            raise UserError(f"{folder}: has {model.config.num_labels} outputs; take a reward model, which has one.")
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def score(
        self, requests: Sequence[RewardRequest], missing: Sequence[int]
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield [(index, [reward])] of each request that is missing."""
        import torch

        for index in missing:
            ids = chat_ids(self.tokenizer, requests[index])
            with torch.inference_mode():
                logits = self.model(torch.tensor([ids], device=self.model.device)).logits
            yield [(index, [round(float(logits[0, 0]), 6)])]

    def close(self) -> None:
        """Give back the memory of the model."""
        import gc

        import torch

        self.model = None
        gc.collect()
        torch.cuda.empty_cache()


def ask_rewards(asker: Asker, requests: Sequence[RewardRequest]) -> list[list[float]]:
    """Return [reward] per request by the model that an asker has, asking only for what the journal lacks."""

    def opened():
        compute = asker.endpoint["compute"]
        key = (digest(["reward", asker.identity, compute]), None)
        settings = {"dtype": compute["dtype"], "threads": compute["threads"]}
        return asker.pool.load(key, lambda: RewardModel(str(asker.model), **settings))

    who: dict[str, Any] = {"identity": asker.identity, "open_answerer": opened, "journal": asker.pool.journal}
    return ask_all(requests, method="score", **who) if requests else []
