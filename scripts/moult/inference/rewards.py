"""Reward models: a number for an answer to a question, from a model of this build that writes no text."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.files import digest
from moult.base.rows import Message
from moult.inference.asking import Asker, ask_all
from moult.inference.requests import Answer, RewardRequest
from moult.inference.tokens import chat_tokens
from moult.weights.agreement import check_parts
from moult.weights.architectures import auto_class, is_gated_reward_model, is_reward_model

# Tokens of a batch, padding included, beyond which a CPU only reads more padding, and reads no token faster.
ENOUGH = 512


def reward_request(question: str, answer: str) -> RewardRequest:
    """Return the request that scores an answer to a question."""
    return chat_request([{"role": "user", "content": question}], answer)


def chat_request(messages: Sequence[Message], answer: str) -> RewardRequest:
    """Return the request that scores an answer to a chat."""
    return RewardRequest((*messages, {"role": "assistant", "content": answer}))


def chat_ids(tokenizer: Any, request: RewardRequest) -> list[int]:
    """Return the tokens of a chat up to the end of the answer's turn, by the model's own chat template."""
    *asked, answer = request.messages
    prompt, (said,) = chat_tokens(tokenizer).answered(asked, [answer["content"]])
    return prompt + said


class RewardModel:
    """A sequence classifier with one output, which is the reward; or several rewards under gates (`gated_reward`).

    Rows of a batch are padded behind their last token, whatever the tokenizer's padding side: no token of a model that
    reads from left to right sees that, so that it takes no mask, and where a row ends is known by its length.
    """

    def __init__(self, folder: str | Path, *, dtype: str, threads: int, batch_size: int = 1) -> None:
        import torch
        from transformers import AutoTokenizer

        check_parts(folder)
        if not is_reward_model(folder):
            raise UserError(f"{folder}: is no reward model; take one that is saved for sequence classification.")
        torch.set_num_threads(threads)
        self.folder, self.batch_size = folder, batch_size
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = auto_class(folder).from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True
        )
        self.header = header_of(self.tokenizer, folder) if is_gated_reward_model(folder) else None
        if not self.header and model.config.num_labels != 1:
            raise UserError(f"{folder}: has {model.config.num_labels} outputs; take a reward model, which has one.")
        self.limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    def score(
        self, requests: Sequence[RewardRequest], missing: Sequence[int]
    ) -> Iterator[list[tuple[int, list[float] | Answer]]]:
        """Yield lists of (index, [reward]) of requests that are missing, a batch at a time, the longest first; of a
        model with gates [score, its rewards, their gates]. The batches are planned over all requests.

        A chat that does not fit into the model is an Answer with an error. UserError for a score that is no number.
        """
        chats = [chat_ids(self.tokenizer, request) for request in requests]
        plan = sorted(range(len(chats)), key=lambda index: (-len(chats[index]), digest(requests[index].as_dict())))
        wanted = set(missing)
        fitting = [index for index in plan if len(chats[index]) <= self.limit]
        if long := sorted(wanted.difference(fitting)):
            yield [(index, self._refusal(chats[index])) for index in long]
        for batch in self._batches(chats, fitting):
            if rows := [index for index in batch if index in wanted]:
                yield list(zip(rows, self._scores([chats[index] for index in rows]), strict=True))

    def _batches(self, chats, plan):
        """Return lists of indices in the order of a plan, the longest chat first."""
        most, batches = ENOUGH if self.model.device.type == "cpu" else math.inf, []
        for index in plan:
            last = batches[-1] if batches else []
            if last and len(last) < self.batch_size and (len(last) + 1) * len(chats[last[0]]) <= most:
                last.append(index)
            else:
                batches.append([index])
        return batches

    def _refusal(self, ids):
        reason = f"a conversation of {len(ids)} tokens is longer than the reward model's {self.limit}"
        return Answer("", "error", prompt_tokens=len(ids), error=reason)

    def _scores(self, chats):
        """Return the numbers of each chat of a batch."""
        import torch

        width = max(map(len, chats))
        ids = torch.tensor([chat + [0] * (width - len(chat)) for chat in chats], device=self.model.device)
        rows, ends = torch.arange(len(chats)), torch.tensor([len(chat) - 1 for chat in chats])
        with torch.inference_mode():
            states = self.model.base_model(ids)[0]
            if self.header:
                headers = torch.tensor([self._place_of_header(chat) for chat in chats])
                score, rewards, gates = self.model.of_states(states[rows, ends], states[rows, headers])
                table = torch.cat([score[:, None], rewards, gates], dim=1)
            else:
                # All positions, as the classifier itself does.
                table = self.model.score(states)[rows, ends]
        found = [[round(number, 6) for number in row] for row in table.float().tolist()]
        if wrong := next((number for row in found for number in row if not math.isfinite(number)), None):
            raise UserError(
                f"{self.folder}: the score of an answer is {wrong}, no number; the weights may need another "
                "`compute.dtype`, such as float32, or are damaged."
            )
        return found

    def _place_of_header(self, ids):
        """Return where the last header of the assistant begins."""
        size = len(self.header)
        for place in range(len(ids) - size, -1, -1):
            if ids[place : place + size] == self.header:
                return place
        raise UserError(
            f"{self.folder}: its chat template writes no header of the assistant into a conversation, at which the "
            "gates of this reward model are read; give the model its own chat template."
        )

    def close(self) -> None:
        """Give back the memory of the model."""
        import gc

        import torch

        self.model = None
        gc.collect()
        torch.cuda.empty_cache()


def header_of(tokenizer: Any, folder: str | Path) -> list[int]:
    """Return the tokens between a user's turn and the assistant's answer, as the chat template writes them: of Llama 3
    <|eot_id|> and the header with its two marks; the line ends behind them belong to no one. UserError where there are
    none."""
    mark = "\ue000"
    asked = chat_tokens(tokenizer).template.prompt([{"role": "user", "content": mark}])
    if not (tail := asked.partition(mark)[2].rstrip()):
        raise UserError(
            f"{folder}: its chat template writes no header of the assistant, at which the gates of this reward model "
            "are read; give it its own by `chat_template` where it is fetched."
        )
    return tokenizer(tail, add_special_tokens=False)["input_ids"]


def ask_rewards(asker: Asker, requests: Sequence[RewardRequest], batch_size: int = 1) -> list[Any]:
    """Return [reward] per request by the model that an asker has, or a stored value with an error; see
    `RewardModel.score`. It asks only for what the journal lacks."""

    def opened():
        compute = asker.endpoint["compute"]
        key = (digest(["reward", asker.identity, compute, *[batch_size] * (batch_size > 1)]), None)
        settings = {"dtype": compute["dtype"], "threads": compute["threads"], "batch_size": batch_size}
        return asker.pool.load(key, lambda: RewardModel(str(asker.model), **settings))

    who: dict[str, Any] = {"identity": asker.identity, "open_answerer": opened, "journal": asker.pool.journal}
    return ask_all(requests, method="score", **who) if requests else []
