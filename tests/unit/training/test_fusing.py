"""Runs that learn from sources: prompts that are shared, weights that grow, what is logged, and toys with an answer."""

import csv
import json
import random
import shutil

import pytest
import tuning
from moult.base.errors import UserError
from moult.base.files import write_jsonl
from moult.data.prompts import Example
from moult.inference.engines.trees import takes_tree
from moult.objectives import LOSSES, loss_of
from moult.training import preferences, trainer
from moult.training.encoding import collate_pairs, collate_trees, encode_pairs, preference_logps
from moult.training.finetune import finetune_full, finetune_lora
from moult.training.order import BLANK
from moult.training.pairs import Pair, read_pairs
from plain_losses import PLAIN, Answer
from preference_tuning import DEV, FULL, FUSED, FUSED_DEV, RECIPE, TRAIN

WRPO = {"kind": "wrpo", "beta": 0.5, "alpha_end": 0.4, "schedule": "linear", "nll_weight": 0.0}


def curve(folder, split):
    with open(folder / "loss.csv", encoding="utf-8") as handle:
        return [row for row in csv.DictReader(handle) if row["split"] == split]


# ---------------------------------------------------------------- prompts that are shared


def mistral(folder):
    """Save a model whose layers see but four tokens back; return its folder."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=512, num_hidden_layers=2, sliding_window=4, **sizes)
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


def bloom(folder):
    """Save a model whose attention falls with the distance in the sequence, which takes no tree; return its folder."""
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(1)
    BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=4)).save_pretrained(folder)
    return folder


def logps_and_gradients(model, batch):
    """Return (answers, rows) log-probabilities, and the gradients of a sum that weighs each answer otherwise."""
    model.zero_grad()
    logps, tokens = preference_logps(model, model, batch)
    weights = 1 + 0.1 * (tokens > 0) * logps.new_tensor(range(logps.numel())).view_as(logps)
    (logps * weights).sum().backward()
    return logps.detach(), {name: weight.grad.clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("make", [None, mistral], ids=["llama", "sliding"])
def test_answers_behind_one_prompt_are_as_likely_as_each_behind_its_own(pico_model, tmp_path, make):
    """Values and gradients, of rows with two to five answers and a blank one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path) if make else pico_model, dtype="float32")
    assert takes_tree(model)
    rows, _, _ = encode_pairs(tokenizer, [TRAIN[0], *FUSED[:4]], 128)
    apart, together = collate_pairs([*rows, BLANK]), collate_trees([*rows, BLANK])
    assert together["attention_mask"].sum() < 0.6 * apart["attention_mask"].sum()
    (expected, wanted), (found, gradients) = (logps_and_gradients(model, batch) for batch in (apart, together))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (found == 0).tolist() == (expected == 0).tolist() and found[:, -1].tolist() == [0] * len(found)
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_where_no_tree_can_stand_each_answer_has_the_prompt_for_itself(pico_model, tmp_path, caplog):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    folder = bloom(tmp_path / "bloom")
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert not takes_tree(model)
    caplog.set_level("INFO", logger="moult.training")
    losses = []
    for way in ({}, {"shared_prompt": True}):
        recipe = FULL | {"loss": WRPO, "max_steps": 2, "epochs": None} | way
        scratch = tmp_path / f"scratch{len(losses)}"
        finetune_full(recipe, folder, FUSED, FUSED_DEV, scratch, tmp_path / f"made{len(losses)}")
        losses.append((tmp_path / f"made{len(losses)}" / "loss.csv").read_text())
    assert losses[0] == losses[1]
    assert "shared_prompt: BloomForCausalLM reads a prompt once for each of its answers" in caplog.messages


def on_the_left(batch):
    """Return a batch whose rows are padded on the left."""
    import torch

    empty = (batch["attention_mask"] == 0).sum(1)
    rolled = {
        name: torch.stack([row.roll(int(by)) for row, by in zip(batch[name], empty, strict=True)])
        for name in ("input_ids", "attention_mask")
    }
    return batch | rolled | {"logits_to_keep": batch["logits_to_keep"] + empty[:, None] * (batch["targets"] != -100)}


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_and_its_gradients_are_the_formula_s_in_float64(pico_model, tmp_path, kind):
    """One to four rows of one to three sources, padded on either side or behind one prompt; the model computes in
    float64, so that what is seen is what the loss and its sums in float32 lose."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    base, model = (AutoModelForCausalLM.from_pretrained(pico_model, dtype=torch.float64) for _ in range(2))
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    several, formula = PLAIN[kind]
    # A square of a difference of whole sums would magnify what these lose in float32.
    settings = next(one for one in reversed(several) if not one.get("sum"))
    loss = loss_of({"kind": kind, "nll_weight": 0.2} | settings)
    rows, _, _ = encode_pairs(tokenizer, FUSED, 128)
    if loss.needs_reference:
        rows = preferences.with_reference({"train": rows}, lambda: base, 4, tmp_path / "reference.json")["train"]
    arguments = TrainingArguments(output_dir=tmp_path, use_cpu=True, report_to=[])
    ours = preferences.preference_trainer(loss)(model=model, args=arguments)
    ours.state.global_step, ours.state.max_steps = 3, 10
    for many in (1, 2, 3, 4):
        model.zero_grad()
        expected = 0.0
        for row in rows[:many]:
            answers = []
            for place, answer in enumerate(row["completions"]):
                ids, start = answer["input_ids"], answer["start"]
                table = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
                logp = table[range(len(table)), ids[start:]].sum()
                answers.append(Answer(logp, len(table), row["reference"][place] if "reference" in row else None))
            good, bad = answers[: row["preferred"]], answers[row["preferred"] :]
            nll = -sum(answer.logp / answer.tokens for answer in good) / len(good)
            expected = expected + (formula(loss, good, bad, 0.3) + 0.2 * nll) / many
        expected.backward()
        wanted = torch.cat([weight.grad.flatten() for weight in model.parameters()])
        right = collate_pairs(rows[:many])
        for batch in (right, on_the_left(right), collate_trees(rows[:many])):
            model.zero_grad()
            found = ours.compute_loss(model, batch)
            found.backward()
            assert found.item() == pytest.approx(expected.item(), rel=1e-6)
            gradient = torch.cat([weight.grad.flatten() for weight in model.parameters()])
            assert (gradient - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize("shared", [False, True], ids=["apart", "shared"])
def test_bfloat16_weights_have_float64_sums_and_logits_where_answers_stand_alone(pico_model, shared):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    model = AutoModelForCausalLM.from_pretrained(pico_model, dtype=torch.bfloat16)
    rows, _, _ = encode_pairs(tokenizer, FUSED[:3], 128)
    seen = []
    model.lm_head.register_forward_hook(lambda head, inputs, logits: seen.append(logits))
    batch = (collate_trees if shared else collate_pairs)(rows)
    with torch.no_grad():
        logps, tokens = preference_logps(model, model, batch)
    (logits,) = seen
    assert logits.dtype == torch.bfloat16 and logps.dtype == torch.float64
    answers = [[len(one["input_ids"]) - one["start"] for one in row["completions"]] for row in rows]
    if shared:
        assert logits.shape[:2] == (3, max(map(sum, answers)))
    else:
        assert logits.shape[:2] == (5 * 3, max(map(max, answers)))
    exact = logits.double().log_softmax(-1).gather(-1, batch["targets"].clamp(min=0)[..., None])[..., 0]
    total = (exact * (batch["targets"] != -100)).sum()
    assert logps.sum().item() == pytest.approx(total.item(), rel=1e-6)
    assert tokens.sum().item() == sum(map(sum, answers))


# ---------------------------------------------------------------- weights that grow


@pytest.fixture(scope="module")
def twelve(pico_model, tmp_path_factory):
    """Twelve steps of four rows in two forward passes, every checkpoint of which is kept; (folder, recipe)."""
    folder, kept = tmp_path_factory.mktemp("twelve"), trainer._arguments

    def arguments(*given, **named):
        found = kept(*given, **named)
        found.save_total_limit = None
        return found

    recipe = RECIPE | {"loss": WRPO, "max_steps": 12, "epochs": None, "evaluate_every": 1, "shared_prompt": True}
    trainer._arguments = arguments
    try:
        finetune_lora(recipe, pico_model, FUSED, FUSED_DEV, folder / "scratch", folder / "made")
    finally:
        trainer._arguments = kept
    return folder, recipe


def resumed_after(step, twelve, base, folder):
    """Return the folder that a run writes which goes on after a step of the twelve."""
    begun, recipe = twelve
    ignored = [f"checkpoint-{later}" for later in range(step + 1, 13)]
    shutil.copytree(begun / "scratch", folder / "scratch", ignore=shutil.ignore_patterns(*ignored))
    finetune_lora(recipe, base, FUSED, FUSED_DEV, folder / "scratch", folder / "made")
    return folder / "made"


def test_the_weight_of_sources_grows_with_the_steps_done(twelve):
    """0 in the first step, never its end in the last; an evaluation has that of the steps before it."""
    train, dev = ([float(row["alpha"]) for row in curve(twelve[0] / "made", split)] for split in ("train", "dev"))
    assert train == pytest.approx([0.4 * step / 12 for step in range(12)], rel=1e-6)
    assert dev == pytest.approx([0.4 * step / 12 for step in range(13)], rel=1e-6)


def assert_equal_folders(one, other):
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (one, other)]
    assert files[0] == files[1]


@pytest.mark.parametrize("step", [1, 7])
def test_a_resumed_run_has_the_same_weights_and_the_same_log(twelve, pico_model, tmp_path, step):
    assert_equal_folders(resumed_after(step, twelve, pico_model, tmp_path), twelve[0] / "made")


@pytest.mark.soak
@pytest.mark.parametrize("step", range(1, 12))
def test_a_run_that_is_resumed_at_any_step_has_the_same_weights_and_log(twelve, pico_model, tmp_path, step):
    assert_equal_folders(resumed_after(step, twelve, pico_model, tmp_path), twelve[0] / "made")


def test_the_schedule_does_not_depend_on_how_a_step_is_cut_up(twelve, pico_model, tmp_path):
    recipe = twelve[1] | {"batch_size": 4, "accumulation": 1}
    finetune_lora(recipe, pico_model, FUSED, FUSED_DEV, tmp_path / "scratch", tmp_path / "made")
    for split in ("train", "dev"):
        for one, other in zip(curve(twelve[0] / "made", split), curve(tmp_path / "made", split), strict=True):
            assert one.keys() == other.keys()
            for name in one.keys() - {"split"}:
                assert float(one[name] or 0) == pytest.approx(float(other[name] or 0), rel=1e-3, abs=1e-4), name


# ---------------------------------------------------------------- what is logged


def test_the_loss_curve_tells_rewards_and_lengths_of_sources_and_own_answers(twelve, pico_model):
    """Of the base, whose gains are 0, log-probabilities and lengths are those of the model itself."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first, *_, last = curve(twelve[0] / "made", "dev")
    tokenizer, model = AutoTokenizer.from_pretrained(pico_model), AutoModelForCausalLM.from_pretrained(pico_model)
    rows, _, _ = encode_pairs(tokenizer, FUSED_DEV, 128)
    logps, tokens = preference_logps(model, model, collate_pairs(rows))
    for column, values in (("logp", logps), ("tokens", tokens)):
        parts = {"source": 0.0, "target": 0.0, "rejected": 0.0}
        for place, row in enumerate(rows):
            one = values[: len(row["completions"]), place].tolist()
            *sources, own = one[: row["preferred"]]
            rejected = one[row["preferred"] :]
            parts["source"] += sum(sources) / len(sources) / len(rows)
            parts["target"] += own / len(rows)
            parts["rejected"] += sum(rejected) / len(rejected) / len(rows)
        for part, value in parts.items():
            assert float(first[f"{column}_{part}"]) == pytest.approx(value, rel=1e-5)
    for part in ("source", "target", "weighted", "rejected"):
        assert abs(float(first[f"reward_{part}"])) < 1e-5
    assert float(last["margin"]) > 0.5 and float(last["accuracy_target"]) > 0.5
    told = json.loads((twelve[0] / "made" / "train.json").read_text())
    measures = LOSSES["wrpo"].measures
    assert told["dev"].keys() == told["dev_before"].keys() == {"loss", "nll", "accuracy", *measures}
    for row in curve(twelve[0] / "made", "train"):
        weighted = float(row["alpha"]) * float(row["reward_source"]) + (1 - float(row["alpha"])) * float(
            row["reward_target"]
        )
        assert float(row["reward_weighted"]) == pytest.approx(weighted, rel=1e-4, abs=1e-5)
        assert float(row["margin"]) == pytest.approx(weighted - float(row["reward_rejected"]), rel=1e-4, abs=1e-5)


def test_other_losses_have_the_columns_that_they_had(pico_model, tmp_path):
    recipe = RECIPE | {"max_steps": 1, "epochs": None}
    finetune_lora(recipe, pico_model, TRAIN, DEV, tmp_path / "scratch", tmp_path / "made")
    head = (tmp_path / "made" / "loss.csv").read_text().splitlines()[0]
    assert head == "step,split,loss,accuracy,learning_rate,nll"


# ---------------------------------------------------------------- rows


def record(number, policies, split="train"):
    answers = [{"role": "assistant", "content": f"{place} fox", "policy": one} for place, one in enumerate(policies)]
    prompt = [{"role": "user", "content": f"question {number}"}]
    rejected = [{"role": "assistant", "content": "no"}]
    return {"uid": str(number), "split": split, "prompt": prompt, "chosen": answers, "rejected": rejected}


def test_rows_tell_which_answers_are_of_sources(tmp_path):
    path, both = tmp_path / "pairs.jsonl", ["source", "target"]
    write_jsonl(path, [record(0, both), record(1, ["source", *both], "dev")])
    train, dev, _ = read_pairs([path], ["pairs"], 1, fused=True)
    assert (train[0].sources, dev[0].sources) == (1, 2) and dev[0].chosen == ["0 fox", "1 fox", "2 fox"]
    for wrong in (["target"], ["source"], ["target", "source"], ["source", "target", "target"], [None]):
        write_jsonl(path, [record(0, both), record(1, wrong)])
        with pytest.raises(UserError, match=r"row 2: \d of \d chosen answers are of sources; the loss wants"):
            read_pairs([path], ["pairs"], 1, fused=True)
        read_pairs([path], ["pairs"], 1)
    with pytest.raises(UserError, match="its answers are of nobody known"):
        read_pairs([tmp_path], ["pairs"], 1, fused=True)


# ---------------------------------------------------------------- toys with a known answer

WORDS = ["fox", "dog", "quick", "brown", "data", "question"]


def marked(number, sources):
    """Return a row in which answers to prefer hold the mark that the question is for, and the rejected one the other: a
    model that has learnt nothing is as often right as wrong, whichever mark it likes."""
    draw, marks = random.Random(number), ["yes", "no"]

    def answer(mark):
        words = draw.choices(WORDS, k=4)
        words[draw.randrange(4)] = mark
        return " ".join(words)

    question = [{"role": "user", "content": f"question {number} {['fox', 'dog'][number % 2]}"}]
    good, bad = marks[:: 1 - 2 * (number % 2)]
    return Pair(str(number), question, [answer(good) for _ in range(sources + 1)], [answer(bad)], sources)


def reward_accuracy(loss, model, base, tokenizer, pairs):
    """Return the share of pairs whose answer to prefer has more reward, of ties a half."""
    import torch

    rows, _, _ = encode_pairs(tokenizer, pairs, 128)
    batch = collate_pairs(rows)
    with torch.no_grad():
        (logps, tokens), (reference, _) = (preference_logps(one, one, batch) for one in (model, base))
    good, bad = loss.scores(logps, tokens, reference)[[-2, -1]]
    return ((good > bad).double() + 0.5 * (good == bad)).mean().item()


@pytest.mark.parametrize(
    "kind", ["wrpo", "simpo", *(pytest.param(one, marks=pytest.mark.soak) for one in ("dpo", "ipo"))]
)
def test_a_mark_that_good_answers_have_is_learnt(pico_model, tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = {"wrpo": {"beta": 0.1, "alpha_end": 0.5}, "simpo": {"beta": 2.5, "gamma_ratio": 0.5}}.get(kind, {})
    loss = LOSSES[kind](kind=kind, **settings)
    sources = int(loss.needs_sources)
    train, held = ([marked(number, sources) for number in numbers] for numbers in (range(96), range(1000, 1064)))
    plan = {"max_steps": 32, "epochs": None, "batch_size": 16, "accumulation": 1, "evaluate_every": 32}
    recipe = FULL | plan | {"loss": loss.model_dump(), "learning_rate": 3e-3, "collapse": 1e6, "shared_prompt": True}
    finetune_full(recipe, pico_model, train, held[:8], tmp_path / "scratch", tmp_path / "made")
    tokenizer = AutoTokenizer.from_pretrained(pico_model)
    base, made = (AutoModelForCausalLM.from_pretrained(path) for path in (pico_model, tmp_path / "made"))
    before, after = (reward_accuracy(loss, model, base, tokenizer, held) for model in (base, made))
    assert 0.4 < before < 0.6 and after > 0.9


KNOWN = {"fox": "quick", "dog": "brown"}
CANDIDATES = ["quick", "brown", "data", "yes"]


def asked(topic, number):
    return [{"role": "user", "content": f"question {number} about a {topic}"}]


def answers_of(model, tokenizer, questions):
    """Return for each question the candidates, the likeliest answer first."""
    import torch

    rows, _, _ = encode_pairs(tokenizer, [Pair("", question, CANDIDATES, []) for question in questions], 128)
    with torch.no_grad():
        logps, _ = preference_logps(model, model, collate_pairs(rows))
    return [[CANDIDATES[place] for place in row] for row in logps.T.argsort(descending=True).tolist()]


def share_known(model, tokenizer, topic):
    """Return the share of held-out questions about a topic that a model answers as it should."""
    found = answers_of(model, tokenizer, [asked(topic, number) for number in range(500, 532)])
    return sum(one[0] == KNOWN[topic] for one in found) / len(found)


def test_two_sources_fused_know_what_each_knew_alone(pico_model, tmp_path):
    """Each source is taught one topic, the target none: it learns from the better of their answers, and two wrong ones
    of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, models = AutoTokenizer.from_pretrained(pico_model), {}
    taught = tuning.FULL | {"max_steps": 12, "epochs": None, "batch_size": 8, "accumulation": 1, "evaluate_every": 12}
    for topic, answer in KNOWN.items():
        examples = [Example(str(number), asked(topic, number), answer) for number in range(40)]
        made = tmp_path / topic
        finetune_full(taught, pico_model, examples, examples[:4], tmp_path / f"{topic}-scratch", made)
        models[topic] = AutoModelForCausalLM.from_pretrained(made)
    target = AutoModelForCausalLM.from_pretrained(pico_model)
    rows = []
    for topic, right in KNOWN.items():
        questions = [asked(topic, number) for number in range(40)]
        told = zip(*(answers_of(model, tokenizer, questions) for model in models.values()), strict=True)
        for question, sources, own in zip(questions, told, answers_of(target, tokenizer, questions), strict=True):
            best = max((one[0] for one in sources), key=lambda answer: answer == right)
            better, worse = random.Random(len(rows)).sample([answer for answer in own if answer != right], 2)
            rows.append(Pair(f"{topic}{len(rows)}", question, [best, better], [worse], 1))
    loss = {"kind": "wrpo", "beta": 0.1, "alpha_end": 0.9, "schedule": "constant", "nll_weight": 0.0}
    plan = {"max_steps": 60, "epochs": None, "batch_size": 8, "accumulation": 1, "evaluate_every": 60}
    recipe = FULL | plan | {"loss": loss, "learning_rate": 3e-3, "collapse": 1e6, "shared_prompt": True}
    finetune_full(recipe, pico_model, rows, rows[::8], tmp_path / "scratch", tmp_path / "made")
    models |= {"target": target, "fused": AutoModelForCausalLM.from_pretrained(tmp_path / "made")}
    known = {name: [share_known(model, tokenizer, topic) for topic in KNOWN] for name, model in models.items()}
    assert known["fox"] == [1, 0] and known["dog"] == [0, 1]
    assert min(known["target"]) < 0.5 and min(known["fused"]) > 0.9
