"""Preference losses against a plain implementation of their formulas, and runs on pairs of pico models."""

import csv
import json
import math
import shutil
from typing import Literal

import pytest
from moult import objectives
from moult.base.errors import UserError
from moult.base.files import write_jsonl
from moult.inference.tokens import end_of_turn_id, prompt_ids
from moult.objectives import loss_of
from moult.objectives.base import Loss
from moult.training import preferences
from moult.training.encoding import answer_logps, collate_pairs, encode_pairs
from moult.training.finetune import finetune_full, finetune_lora
from moult.training.order import BLANK, GroupedRows
from moult.training.pairs import Pair, read_pairs
from pico import teach_pico_model
from plain_losses import PLAIN, Answer
from preference_tuning import DEV, FULL, FUSED, FUSED_DEV, RECIPE, TRAIN, pair

DPO = {"kind": "dpo", "beta": 0.5, "nll_weight": 0.0}
LOSSES = {
    "contrastive": RECIPE["loss"],
    "contrastive_and_nll": {"kind": "contrastive", "margin": 0.0, "nll_weight": 0.3},
    "dpo": DPO,
    "dpo_and_nll": DPO | {"nll_weight": 0.3},
}
WRPO = {"kind": "wrpo", "beta": 0.5, "schedule": "constant", "alpha_end": 0.3, "nll_weight": 0.3}


def several(number):
    """Return a preference with one or two chosen answers and one to three others."""
    one, others = pair(number), ["a lazy dog", "maybe so", "question"][: number % 3]
    chosen = [*one.chosen, "jumping data"][: 1 + number % 2]
    return Pair(one.uid, one.messages, chosen, [*one.rejected, *others])


SEVERAL = [several(number) for number in range(10)]


@pytest.fixture(scope="module")
def tokenizer(pico_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(pico_model)


@pytest.fixture(scope="module")
def base(pico_model):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(pico_model, dtype=torch.float32).eval()


@pytest.fixture
def optimise(pico_model, tmp_path):
    """Return a function that trains in a folder of its own and returns (train.json, the artefact's folder)."""

    def run(name, train=TRAIN, dev=DEV, recipe=RECIPE, base=pico_model, **changes):
        folder = tmp_path / name
        train_it = finetune_lora if "lora" in recipe else finetune_full
        report = train_it(recipe | changes, base, train, dev, folder / "scratch", folder / "made")
        return report, folder / "made"

    return run


def curve(folder, split):
    with open(folder / "loss.csv", encoding="utf-8") as handle:
        return [row for row in csv.DictReader(handle) if row["split"] == split]


# ---------------------------------------------------------------- the plain implementation


def plain_logps(model, tokenizer, messages, answer):
    """Return the log-probability of each token of an answer and its end, alone, one after the other."""
    import torch

    prompt = prompt_ids(tokenizer, messages)
    ids = prompt + tokenizer(answer)["input_ids"] + [end_of_turn_id(tokenizer)]
    table = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return [table[place - 1, ids[place]] for place in range(len(prompt), len(ids))]


def plain_loss(model, reference, tokenizer, pairs, settings):
    """Return the mean loss of pairs, as the formulas are written in the papers, when no step is done."""
    import torch

    loss, (_, formula) = loss_of(settings), PLAIN[settings["kind"]]
    total = 0
    for one in pairs:
        answers = []
        for text in (*one.chosen, *one.rejected):
            logps = plain_logps(model, tokenizer, one.messages, text)
            with torch.no_grad():
                before = sum(plain_logps(reference, tokenizer, one.messages, text)) if loss.needs_reference else None
            answers.append(Answer(sum(logps), len(logps), before))
        good, bad = answers[: len(one.chosen)], answers[len(one.chosen) :]
        nll = -sum(answer.logp / answer.tokens for answer in good) / len(good)
        total = total + formula(loss, good, bad, 0.0) + loss.nll_weight * nll
    return total / len(pairs)


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.fixture(scope="module")
def moved(pico_model):
    """The model some way from the base, so that DPO has something to compare."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pico_model, dtype=torch.float32).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return model


# Loss, rows, how many of them in each forward pass, and whether answers share their prompt.
STEPS = [
    *((kind, TRAIN, batches, False) for kind in LOSSES for batches in ([5], [1, 1, 1])),
    *((kind, SEVERAL, [3, 2, 1], False) for kind in LOSSES),
    ("dpo_and_nll", SEVERAL, [3, 2, 1], True),
    ("contrastive", TRAIN, [1, 1, 1], True),
    *(("wrpo", FUSED, [3, 2, 1], shared) for shared in (False, True)),
]


@pytest.mark.parametrize(("kind", "many", "batches", "shared"), STEPS)
def test_values_and_gradients_are_those_of_the_formulas(base, moved, tokenizer, tmp_path, kind, many, batches, shared):
    """Each list is one optimiser step: so many pairs in each of its forward passes, and a blank one beside them."""
    import torch
    from transformers import TrainingArguments

    loss, pairs = LOSSES.get(kind, WRPO), many[: sum(batches)]
    moved.zero_grad()
    expected = plain_loss(moved, base, tokenizer, pairs, loss)
    expected.backward()
    wanted = gradients(moved)

    rows, _, _ = encode_pairs(tokenizer, pairs, 128)
    if loss_of(loss).needs_reference:
        file = tmp_path / "reference.json"
        rows = preferences.with_reference({"train": rows}, lambda: base, 2, file, shared)["train"]
    arguments = TrainingArguments(output_dir=tmp_path, use_cpu=True, report_to=[])
    trainer = preferences.preference_trainer(loss_of(loss), shared)(
        model=moved, args=arguments, data_collator=collate_pairs
    )
    moved.zero_grad()
    found, start = 0.0, 0
    for size in batches:
        batch = trainer.data_collator([*rows[start : start + size], BLANK])
        start += size
        part = trainer.compute_loss(moved, batch, num_items_in_batch=torch.tensor(len(pairs)))
        part.backward()
        found += part.item()
    assert found == pytest.approx(expected.item(), rel=1e-5)
    for name, gradient in gradients(moved).items():
        scale = wanted[name].abs().max().item()
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-4 * scale + 1e-9), name
    assert any(gradient.abs().max() > 0 for gradient in wanted.values())


def test_a_step_is_the_mean_over_its_pairs_however_they_are_batched(optimise):
    """Ten pairs, four a step: the last step has two."""
    found = {}
    for name, (batch_size, accumulation) in {"one": (4, 1), "two": (2, 2), "four": (1, 4)}.items():
        _, made = optimise(name, loss=DPO, batch_size=batch_size, accumulation=accumulation, epochs=1)
        found[name] = [float(row["loss"]) for row in curve(made, "train")]
    assert len(found["one"]) == 3
    for name in ("two", "four"):
        assert found[name] == pytest.approx(found["one"], rel=1e-4), name


def test_dpo_begins_at_the_logarithm_of_two(optimise):
    report, made = optimise("begins", loss=DPO, max_steps=2)
    assert report["dev_before"]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert float(curve(made, "train")[0]["loss"]) == pytest.approx(math.log(2), rel=1e-5)


class Telling(Loss):
    """A loss that is the share of training done, whatever the answers are."""

    kind: Literal["telling"]

    def scores(self, logps, tokens, reference):
        return logps

    def losses(self, scores, preferred, others, done):
        return 0 * scores.sum(0) + done


def test_a_loss_knows_the_share_of_training_done(optimise, tmp_path, monkeypatch, caplog):
    """Ten pairs, four a step in two forward passes, twice: six steps; the run goes on from its second one, too."""
    monkeypatch.setitem(objectives.LOSSES, "telling", Telling)
    caplog.set_level("INFO", logger="moult.training")
    shares = [step / 6 for step in range(6)]
    for _ in ("at once", "resumed"):
        _, made = optimise("telling", loss={"kind": "telling", "nll_weight": 0.0}, evaluate_every=2)
        assert [float(row["loss"]) for row in curve(made, "train")] == pytest.approx(shares, abs=1e-6)
        # An evaluation has the share that the steps before it came to.
        assert [float(row["loss"]) for row in curve(made, "dev")] == pytest.approx([0, 2 / 6, 4 / 6, 1], abs=1e-6)
        shutil.rmtree(tmp_path / "telling" / "scratch" / "checkpoint-6")
    assert "resuming after checkpoint-2" in caplog.messages


# ---------------------------------------------------------------- pairs and their batches


def test_both_answers_follow_the_same_prompt_whichever_is_longer(tokenizer):
    for one in (TRAIN[3], Pair("x", TRAIN[3].messages, ["yes"], TRAIN[3].chosen)):
        (whole,), _, _ = encode_pairs(tokenizer, [one], 128)
        longest = max(len(answer["input_ids"]) for answer in whole["completions"])
        (row,), truncated, _ = encode_pairs(tokenizer, [one], longest - 5)
        chosen, rejected = row["completions"]
        assert truncated == 1 and chosen["start"] == rejected["start"] == whole["completions"][0]["start"] - 5
        prompts = [answer["input_ids"][: answer["start"]] for answer in (chosen, rejected)]
        assert prompts[0] == prompts[1] and prompts[0][0] == tokenizer.bos_token_id
    _, _, (dropped,) = encode_pairs(tokenizer, [TRAIN[3]], 5)
    assert dropped["uid"] == "q:train:3" and "max_length is 5" in dropped["reason"]


def test_no_shuffle_parts_a_pair(tokenizer):
    rows, _, _ = encode_pairs(tokenizer, TRAIN, 128)
    ordered = GroupedRows(rows, batch=3, accumulation=1, seed=4)
    seen = []
    for epoch in (0, 1):
        ordered.set_epoch(epoch)
        for start in range(0, len(ordered), 3):
            chunk = [ordered[place] for place in range(start, min(start + 3, len(ordered)))]
            batch = collate_pairs(chunk)
            assert len(batch["input_ids"]) == len(batch["targets"]) == 2 * len(batch["labels"])
            for place, row in enumerate(chunk):
                for half, answer in ((place, row["completions"][0]), (place + len(chunk), row["completions"][1])):
                    size = len(answer["input_ids"])
                    assert batch["input_ids"][half, :size].tolist() == answer["input_ids"]
                    counted = batch["targets"][half] != -100
                    assert batch["targets"][half][counted].tolist() == answer["input_ids"][answer["start"] :]
                seen.append(json.dumps(row))
    assert sorted(seen) == sorted(2 * [json.dumps(row) for row in rows])


def record(number, split="train", **changes):
    one = pair(number)
    answers = {
        side: [{"role": "assistant", "content": text} for text in texts]
        for side, texts in (("chosen", one.chosen), ("rejected", one.rejected))
    }
    return {"uid": f"q:{split}:{number}", "split": split, "prompt": one.messages} | answers | changes


def test_pairs_are_read_by_split_and_some_held_out_where_there_is_no_dev(tmp_path):
    both, alone = tmp_path / "both.jsonl", tmp_path / "alone.jsonl"
    write_jsonl(both, [record(0), record(1, "dev"), record(2, "test")])
    write_jsonl(alone, [record(number) for number in range(20)])
    train, dev, _ = read_pairs([both], ["pairs"], 1)
    assert ([one.uid for one in train], [one.uid for one in dev]) == (["pairs/q:train:0"], ["pairs/q:dev:1"])
    assert (dev[0].chosen, dev[0].rejected, dev[0].messages) == (pair(1).chosen, pair(1).rejected, pair(1).messages)
    write_jsonl(tmp_path / "more.jsonl", [record(0, chosen=record(0)["chosen"] * 2), record(1, "dev")])
    assert read_pairs([tmp_path / "more.jsonl"], ["pairs"], 1)[0][0].chosen == 2 * pair(0).chosen
    train, dev, _ = read_pairs([alone], ["pairs"], 1)
    assert (len(train), len(dev)) == (18, 2)
    assert (train, dev, []) == read_pairs([alone], ["pairs"], 1)
    assert dev != read_pairs([alone], ["pairs"], 2)[1]


def test_what_is_no_pair_is_named_with_its_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    for broken in ({"rejected": []}, {"chosen": None}, {"prompt": 1, "chosen": [{"text": "x"}]}):
        write_jsonl(path, [record(0), record(1, **broken)])
        with pytest.raises(UserError, match="pairs.jsonl, row 2: is no preference pair"):
            read_pairs([path], ["pairs"], 1)
    write_jsonl(path, [record(0), record(1, chosen=[])])
    with pytest.raises(UserError, match="row 2: is no preference pair: it has 0 chosen and 1 rejected"):
        read_pairs([path], ["pairs"], 1)
    write_jsonl(path, [record(0)])
    with pytest.raises(UserError, match="too few"):
        read_pairs([path], ["pairs"], 1)


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", objectives.LOSSES)
def test_the_chosen_answers_become_likelier(optimise, method, kind):
    recipe = {"lora": RECIPE, "full": FULL}[method]
    loss = LOSSES.get(kind) or objectives.LOSSES[kind](kind=kind).model_dump()
    train, dev = (FUSED, FUSED_DEV) if kind == "wrpo" else (TRAIN, DEV)
    report, made = optimise("learns", train, dev, recipe, loss=loss, epochs=6)
    assert report["dev"]["loss"] < report["dev_before"]["loss"]
    assert report["dev"]["accuracy"] == 1.0 and report["criterion"] == "loss"
    assert (report["n_train"], report["n_dev"]) == (10, 4)
    told = {"recipe": recipe | {"loss": loss, "epochs": 6}} | report
    assert json.loads((made / "train.json").read_text()) == told
    assert (made / {"lora": "adapter_model.safetensors", "full": "model.safetensors"}[method]).stat().st_size > 0
    # 18 steps, a look after each tenth of them; the first look is at the base.
    assert [int(row["step"]) for row in curve(made, "dev")] == list(range(19))
    best = min(curve(made, "dev")[1:], key=lambda row: float(row["loss"]))
    assert int(best["step"]) == report["best_step"] and float(best["nll"]) == report["dev"]["nll"]


def test_dev_figures_are_those_of_the_plain_implementation(optimise, base, tokenizer):
    report, _ = optimise("figures", max_steps=1)
    before = report["dev_before"]
    assert before["loss"] == pytest.approx(plain_loss(base, None, tokenizer, DEV, RECIPE["loss"]).item(), rel=1e-5)
    tokens = [value.item() for one in DEV for value in plain_logps(base, tokenizer, one.messages, *one.chosen)]
    assert before["nll"] == pytest.approx(-sum(tokens) / len(tokens), rel=1e-5)


@pytest.fixture(scope="module")
def taught(pico_model, tmp_path_factory):
    """A model that knows what it says: one with random weights has nothing to lose."""
    return teach_pico_model(shutil.copytree(pico_model, tmp_path_factory.mktemp("taught") / "model"))


def own_pair(number):
    """Return a pair as the taught model might make it of its own words."""
    start = ["the quick", "a brown", "this question"][number % 3]
    question = [{"role": "user", "content": f"question {number}"}]
    return Pair(str(number), question, [f"{start} fox answers data"], [f"{start} fox quick and brown"])


@pytest.mark.parametrize("kind", ["contrastive", "dpo"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_learning_rate_a_hundred_times_too_high_is_stopped(optimise, taught, tmp_path, method, kind):
    recipe = {"lora": RECIPE, "full": FULL}[method] | {"loss": LOSSES[kind], "epochs": 3}
    train, dev = [own_pair(number) for number in range(12)], [own_pair(number) for number in range(12, 16)]
    rate = {"lora": 3e-3, "full": 3e-4}[method]
    report, _ = optimise("sane", train, dev, recipe, taught, learning_rate=rate)
    assert report["dev"]["loss"] < report["dev_before"]["loss"]
    assert report["dev"]["nll"] - report["dev_before"]["nll"] < math.log(2)
    for _ in range(2):  # a second run meets the same, from its checkpoint or from the start
        with pytest.raises(UserError) as error:
            optimise("mad", train, dev, recipe, taught, learning_rate=100 * rate)
        assert "collapsed at step" in str(error.value) and "of pairs have NLL" in str(error.value)
        assert f"lower learning_rate (now {100 * rate:g})" in str(error.value)
        assert not (tmp_path / "mad" / "made").exists()


def test_pairs_that_are_in_order_by_the_margin_are_told(optimise, caplog):
    easy = [Pair(str(number), TRAIN[number].messages, ["fox"], ["fox"]) for number in range(4)]
    with caplog.at_level("WARNING", logger="moult.training"):
        optimise("easy", easy, easy, loss={"kind": "contrastive", "margin": 0.0, "nll_weight": 0.0}, max_steps=1)
    assert any("raise it, or nothing is learnt" in text for text in caplog.messages)


def test_the_reference_is_computed_once_and_kept(optimise, tmp_path, monkeypatch):
    _, made = optimise("once", loss=DPO, max_steps=2)
    expected = (made / "adapter_model.safetensors").read_bytes()
    for path in (tmp_path / "once" / "scratch").glob("checkpoint-*/whole.json"):
        path.unlink()
    monkeypatch.setattr(preferences, "_logps", None)
    _, made = optimise("once", loss=DPO, max_steps=2)
    assert (made / "adapter_model.safetensors").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.soak
def test_two_processes_have_the_losses_of_one(optimise):
    """Nine rows, four a step: in the last step one process has a row, the other one a blank."""
    loss = WRPO | {"schedule": "linear"}
    plan = {"loss": loss, "epochs": 2, "evaluate_every": 2, "accumulation": 2, "shared_prompt": True}
    curves = []
    for name, many in {"alone": {"batch_size": 2}, "together": {"batch_size": 1, "devices": 2, "zero": 2}}.items():
        _, made = optimise(name, FUSED[:9], FUSED_DEV[:3], **plan, **many)
        curves.append([row for split in ("train", "dev") for row in curve(made, split)])
    assert len(curves[0]) == 6 + 4 == len(curves[1])
    for one, other in zip(*curves, strict=True):
        assert one["alpha"] == other["alpha"]
        for name in one.keys() - {"split"}:
            assert float(one[name] or 0) == pytest.approx(float(other[name] or 0), rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_several_devices_in_bfloat16_compare_with_what_the_reference_said(two_devices, optimise):
    """Rounded to bfloat16, a log-probability of -150 nats is half a nat off; what never moves must stay at ln 2."""
    plan = {"loss": DPO, "max_steps": 1, "evaluate_every": 1, "learning_rate": 0.0, "dtype": "bfloat16"}
    _, made = optimise("still", recipe=FULL, **plan, batch_size=1, devices=2, zero=2)
    losses = [float(row["loss"]) for split in ("train", "dev") for row in curve(made, split)]
    assert losses == pytest.approx([math.log(2)] * 3, abs=1e-3)


def test_log_probabilities_over_a_large_vocabulary_are_those_of_float64():
    import torch

    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 49_152), torch.randint(0, 49_152, (2, 3))
    targets[1, 2] = -100
    logits.requires_grad_()
    logps, tokens = answer_logps(logits, targets)
    logps.sum().backward()
    exact = logits.detach().double().log_softmax(-1)
    wanted = exact.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets >= 0)
    assert tokens.tolist() == [3, 2] and logps.double().tolist() == pytest.approx(wanted.sum(-1).tolist(), rel=1e-6)
    # All logits but the target's have the gradient −p; term by term, 50,000 terms sum up to 6e-6 less exact ones.
    off = logits.grad[0, 0].double() / -exact[0, 0].exp() - 1
    off[targets[0, 0]] = 0
    assert off.abs().mean() < 2e-6 and not logits.grad[1, 2].any()
