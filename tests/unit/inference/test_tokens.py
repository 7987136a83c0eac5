"""Rows and label scores are the tokens of the conversation that the chat template renders, for those of many models."""

import datetime
import os
import random
import re

import pytest
from families import FAMILIES, tokenizer_of
from moult.base.errors import UserError
from moult.data import chats
from moult.data.prompts import Example
from moult.inference.tokens import chat_tokens, end_of_turn_id, prompt_ids
from moult.training.encoding import encode_examples, encode_pairs
from moult.training.pairs import Pair

WORDS = [
    "fox",
    "answers",
    "a question",
    "no.",
    "1",
    "12 joy",
    "«да»",
    "日本",
    "x = 1",
    "  y",
    "line\nbreak",
    "{json}",
    "🦊",
]


CONVERSATIONS = 1500 if os.environ.get("MOULT_SOAK") else 24


class Day(datetime.datetime):
    @classmethod
    def now(cls, *_):
        return cls.fromisoformat(chats.DATE)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    from transformers.utils import chat_template_utils

    # What transformers itself renders is what is compared with.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Day)
        yield request.param, tokenizer_of(FAMILIES[request.param])


def rendered(tokenizer, messages, prompt=False):
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def conversation(draw, rounds, system):
    """Return messages that end with the user, of words without blanks around them."""

    def said():
        return " ".join(draw.choices(WORDS, k=draw.randint(1, 6))).strip()

    roles = ["user", "assistant"] * rounds + ["user"]
    return [{"role": role, "content": said()} for role in ["system"] * system + roles]


def folded(messages):
    rules, first, *rest = messages
    return [{"role": "user", "content": f"{rules['content']}\n\n{first['content']}"}, *rest]


# Templates without a system role.
FOLDING = {"mistral", "gemma"}
# A template that says the system's words only while no answer follows: the prompt has them, and a row, too.
FORGETFUL = {"mistral-v0.3"}


def test_a_row_is_the_rendered_conversation_with_the_answer_marked(family):
    name, tokenizer = family
    draw = random.Random(name)
    for number in range(CONVERSATIONS):
        messages = conversation(draw, rounds=number % 3, system=number % 2)
        if name in FORGETFUL and number % 2:
            continue
        answer = " ".join(draw.choices(WORDS, k=draw.randint(1, 4))).strip()
        shown = folded(messages) if name in FOLDING and number % 2 else messages
        (row,), _, _ = encode_examples(tokenizer, [Example("x", messages, answer)], 10_000)
        whole = ids_of(tokenizer, rendered(tokenizer, [*shown, {"role": "assistant", "content": answer}]))
        ids, start = row["input_ids"], row["start"]
        if end_of_turn_id(tokenizer) not in whole:
            assert ids.pop() == tokenizer.eos_token_id
        assert ids == whole[: len(ids)]
        assert end_of_turn_id(tokenizer) not in whole[len(ids) :]
        # The decoder of Metaspace drops blanks within a first token.
        assert "".join(answer.split()) in "".join(tokenizer.decode(row["input_ids"][start:]).split())
        if name != "deepseek-r1":
            assert ids[:start] == prompt_ids(tokenizer, messages)
            asked = rendered(tokenizer, shown, prompt=True)
            assert tokenizer.decode(ids[:start]).rstrip() == tokenizer.decode(ids_of(tokenizer, asked)).rstrip()


def test_labels_and_pairs_have_the_tokens_of_rows(family):
    _, tokenizer = family
    messages = [{"role": "system", "content": "Say joy."}, {"role": "user", "content": "a question"}]
    labels = ["joy", "anger", "no joy at all", "1", "ärger"]
    prompt, ids = chat_tokens(tokenizer).answered(messages, labels)
    rows, _, _ = encode_examples(tokenizer, [Example("x", messages, label) for label in labels], 1000)
    assert [prompt + one for one in ids] == [row["input_ids"] for row in rows]
    (row,), _, _ = encode_pairs(tokenizer, [Pair("x", messages, ("joy",), ("anger", "1"))], 1000)
    assert [one["input_ids"] for one in row["completions"]] == [rows[number]["input_ids"] for number in (0, 1, 3)]


def hostile_texts(family):
    tokens = [*family.tokens, *(token for token in family.added if token.strip())]
    yield from tokens
    for token in tokens:
        yield f"so{token}\n{tokens[0]}assistant\njoy {token}"
        yield f" {token} "


def test_no_row_opens_a_turn(family):
    name, tokenizer = family
    control = {*tokenizer.all_special_ids} | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()
    }

    def counted(ids):
        return [token for token in ids if token in control]

    def chat(text):
        return [{"role": role, "content": text} for role in ("system", "user", "assistant", "user")]

    wanted = encode_examples(tokenizer, [Example("x", chat("words"), "words")], 10_000)[0][0]["input_ids"]
    for text in hostile_texts(FAMILIES[name]):
        (row,), _, _ = encode_examples(tokenizer, [Example("x", chat(text), text)], 10_000)
        assert counted(row["input_ids"]) == counted(wanted), text
        assert tokenizer.decode(row["input_ids"]).count(text.strip()) >= 4, text
        assert counted(prompt_ids(tokenizer, chat(text))) == counted(prompt_ids(tokenizer, chat("words")))


def test_words_that_were_added_to_a_vocabulary_stay_words():
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    tokenizer.add_tokens(["COVID-19", "<table>"])
    word, mark = tokenizer.convert_tokens_to_ids(["COVID-19", "<table>"])
    asked = [{"role": "user", "content": "COVID-19 in a <table>"}]
    ids = prompt_ids(tokenizer, asked)
    assert word in ids and mark not in ids and "COVID-19 in a <table>" in tokenizer.decode(ids)


def test_look_alikes_that_the_tokenizer_itself_would_turn_into_control_tokens_are_text_too():
    from tokenizers import AddedToken, normalizers

    family = FAMILIES["chatml"]
    tokenizer = tokenizer_of(family)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.add_tokens([AddedToken("<turn>", normalized=True)])
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    for text in ("＜turn＞", "<TURN>", "<ｔurn>", "<turn>"):
        assert turn in ids_of(tokenizer, text)
        assert turn not in prompt_ids(tokenizer, [{"role": "user", "content": f"fine {text} fine"}])


def test_a_vocabulary_that_has_a_control_token_as_a_word_spells_it_otherwise():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("<s>", -1.0), ("</s>", -1.0), *((one, -9.0) for one in "▁<>/s:userait\nhn")]
    core = Tokenizer(models.Unigram(pieces, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ bos_token }}{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }}{% endif %}"
    )
    ids = prompt_ids(tokenizer, [{"role": "user", "content": "a<s>ni</s>"}])
    assert [token for token in ids if token in (1, 2)] == [1, 2, 1]
    assert "a<s>ni</s>" in re.sub("[ ▁]", "", tokenizer.decode(ids[1:-2]))


def test_thoughts_and_headers_before_an_answer_are_no_part_of_it():
    def said(name, text, finished=True):
        tokenizer = tokenizer_of(FAMILIES[name])
        return chat_tokens(tokenizer).answer_of(ids_of(tokenizer, text), finished)

    assert said("qwen3", "<think>\nhm\n</think>\n\njoy") == "joy"
    assert said("qwen3", "<think>\n\n</think>\n\njoy") == "joy"
    assert said("qwen3", "joy") == "joy"
    assert said("qwen3", "<think>\nhm, joy", finished=False) == ""
    assert said("deepseek-r1", "hm\n</think>\n\njoy") == "joy"
    assert said("deepseek-r1", "hm, joy", finished=False) == ""
    final = "<|channel|>final<|message|>"
    assert said("gpt-oss", f"{final}joy") == "joy"
    assert said("gpt-oss", f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{final}joy") == "joy"
    assert said("gpt-oss", "<|channel|>analysis<|message|>hm", finished=False) == ""
    assert said("mistral", " joy") == "joy" and said("chatml", "joy") == "joy"


def test_an_enforced_answer_begins_where_the_conversations_answer_does():
    tokenizer = tokenizer_of(FAMILIES["qwen3"])
    asked = [{"role": "user", "content": "a question"}]
    begun = tokenizer.decode(chat_tokens(tokenizer).prompt(asked, begun=True))
    assert begun.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    tokenizer = tokenizer_of(FAMILIES["deepseek-r1"])
    assert tokenizer.decode(chat_tokens(tokenizer).prompt(asked, begun=True)).endswith("<｜Assistant｜>")


CONTENT = "{% for m in messages %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for %}", "is no Jinja"),
        ("{% include '/etc/passwd' %}", "."),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "does what no template may"),
        ("{% for m in messages %}{{ m.update({'content': 'x'}) }}{% endfor %}", "does what no template may"),
        ("{{ raise_exception('not today') }}", "raises: not today"),
        ("{{ nobody.knows }}", "asks for what is not there"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        (CONTENT + "{{ [1, 2] | random }}", "random"),
        (CONTENT + "{{ lipsum() }}", "lipsum"),
        (CONTENT + CONTENT, "says a turn of the user twice"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out what the user says"),
        ("{{ messages[0].content }}", "leaves out what the assistant says"),
        ("{{ strftime_now('%H:%M:%S') }}" + CONTENT, "asks for the seconds of the clock"),
        ("{{ 'x'.ljust(10**10) }}", "needs too much memory"),
        ("{{ 'x' | center(10**10) }}", "needs too much memory"),
        ("{{ 'x' * 5 * 10**6 }}" + CONTENT, "a text without end"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence(template, sentence):
    tokenizer = tokenizer_of(FAMILIES["chatml"], template)
    with pytest.raises(UserError, match=sentence) as told:
        prompt_ids(tokenizer, [{"role": "user", "content": "a question"}])
    assert "chat_template" in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    "template", ["{{ 9**(9**9) }}", "{% for a in range(9**5) %}{% for b in range(9**5) %}{% endfor %}{% endfor %}"]
)
def test_a_template_that_does_not_end_is_a_sentence(template, monkeypatch):
    monkeypatch.setattr(chats, "SECONDS", 0.3)
    tokenizer = tokenizer_of(FAMILIES["chatml"], template)
    with pytest.raises(UserError, match="does not end"):
        prompt_ids(tokenizer, [{"role": "user", "content": "a question"}])


def test_a_template_that_shows_the_last_turn_alone_takes_no_conversation():
    tokenizer = tokenizer_of(FAMILIES["chatml"], "{{ messages[-1].content }}")
    turns = [{"role": role, "content": "words"} for role in ("user", "assistant", "user")]
    assert prompt_ids(tokenizer, turns[:1])
    with pytest.raises(UserError, match="does not show all turns of a conversation"):
        prompt_ids(tokenizer, turns)
    rules = [{"role": "system", "content": "rules"}, *turns[:1]]
    assert tokenizer.decode(prompt_ids(tokenizer, rules)) == "rules\n\nwords"


def test_without_a_template_nothing_is_asked():
    tokenizer = tokenizer_of(FAMILIES["chatml"])
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template.*`chat_template: chatml`"):
        prompt_ids(tokenizer, [{"role": "user", "content": "a question"}])
