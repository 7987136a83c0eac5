"""Makes the reward model that lies beside it, and says how often it is right.

    PYTHONPATH=scripts:tests python resources/demo/fusion/make.py

It is a Llama of two layers that was taught to give a sentence more than its own words in another order, with an answer
of `prompts.jsonl` as the sentence. That is all it knows: of what an answer says it knows nothing.
"""

import random
from pathlib import Path

import torch
from moult.base.files import read_jsonl
from moult.inference.rewards import chat_ids, reward_request
from pico import build_pico_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

HERE = Path(__file__).parent
STEPS, ROWS = 300, 8


def pair(chance, rows):
    """Return (question, sentence, its words in another order)."""
    row = chance.choice(rows)
    answer = chance.choice(row["answers"])
    words = answer.split()
    chance.shuffle(words)
    return row["prompt"], answer, " ".join(words)


def scores(model, tokenizer, chats):
    """Return the score of each chat, a list of token ids, at its last token."""
    width = max(map(len, chats))
    ids = torch.tensor([chat + [tokenizer.pad_token_id] * (width - len(chat)) for chat in chats])
    table = model.score(model.base_model(ids)[0])[..., 0]
    return table[torch.arange(len(chats)), torch.tensor([len(chat) - 1 for chat in chats])]


def main():
    """Teach the model, and write it in bfloat16."""
    rows = read_jsonl(HERE / "prompts.jsonl")
    tokenizer = build_pico_tokenizer([text for row in rows for text in (row["prompt"], *row["answers"])])
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_labels": 1}
    sizes |= {"num_hidden_layers": 2, "max_position_embeddings": 1024, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForSequenceClassification(LlamaConfig(**sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    chance, right = random.Random(1), []
    for step in range(STEPS):
        drawn = [pair(chance, rows) for _ in range(ROWS)]
        chats = [chat_ids(tokenizer, reward_request(asked, text)) for asked, *both in drawn for text in both]
        found = scores(model, tokenizer, chats)
        gaps = found[::2] - found[1::2]
        (-torch.nn.functional.logsigmoid(gaps).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        right.append((gaps > 0).float().mean().item())
        if step % 50 == 49:
            print(f"step {step + 1} of {STEPS}: {sum(right[-50:]) / 50:.0%} right", flush=True)
    model.to(torch.bfloat16).save_pretrained(HERE / "reward")
    tokenizer.save_pretrained(HERE / "reward")


if __name__ == "__main__":
    main()
