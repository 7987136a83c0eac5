"""LLaMA-Factory's data: alpaca and sharegpt JSON with its `dataset_info.json`, read and trained on.

What the columns and tags of an entry mean is said in data/README.md of hiyouga/LLaMA-Factory; where that is silent, its
converter decides: columns or tags that stand in the entry leave no default for those that do not, a system message
wins over the system column, `instruction` and `input` are joined by a line end. Its defaults train on every answer of
a conversation (`mask_history: false`) and on no prompt (`train_on_prompt: false`); so does `conversation_examples`.

A prepared row keeps the conversation, and the row as its file spells it, so that what goes in comes out (`exports.py`).
"""

import itertools
import json
from pathlib import Path

from moult.base.errors import UserError, nearest
from moult.base.files import digest, read_json, write_json
from moult.data.prompts import Example
from moult.data.readers import json_frame
from moult.data.videos.attach import attach_videos

FORMATS = ("alpaca", "sharegpt")
# The file of a prepared dataset that says how its rows were spelt.
SPELLING = "conversations.json"
MEDIA = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}
COLUMNS = {
    "alpaca": ("prompt", "query", "response", "history", "system", "tools", *MEDIA),
    "sharegpt": ("messages", "system", "tools", *MEDIA),
}
DEFAULT_COLUMNS = {
    "alpaca": {"prompt": "instruction", "query": "input", "response": "output"},
    "sharegpt": {"messages": "conversations"},
}
NEEDED = {"alpaca": ("prompt", "response"), "sharegpt": ("messages",)}
PREFERENCE = ("chosen", "rejected", "kto_tag")
# tag → (its default, the role it stands for; None: it names a key of a message)
TAGS = {
    "role_tag": ("from", None),
    "content_tag": ("value", None),
    "user_tag": ("human", "user"),
    "observation_tag": ("observation", "observation"),
    "assistant_tag": ("gpt", "assistant"),
    "function_tag": ("function_call", "function_call"),
    "system_tag": ("system", "system"),
}
NEEDED_TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag")
# Where LLaMA-Factory fetches rows from, before it looks at file_name.
ELSEWHERE = ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
ASKING, ANSWERING = ("user", "observation"), ("assistant", "function_call")


# ---------------------------------------------------------------- what an entry says


def check_layout(formatting, columns, tags):
    """Raise ValueError, with what to write instead, where the columns and tags of an entry cannot be read."""
    for name in columns:
        if name in PREFERENCE:
            raise ValueError(f"columns: {name!r} is of preference data, which these formats do not read")
        if name not in COLUMNS[formatting]:
            raise ValueError(f"columns: {name!r} is no column of {formatting}{nearest(name, COLUMNS[formatting])}")
    if tags and formatting == "alpaca":
        raise ValueError("tags: only sharegpt has them; leave them out")
    if unknown := next((name for name in tags if name not in TAGS), None):
        raise ValueError(f"tags: {unknown!r} is no tag of sharegpt{nearest(unknown, TAGS)}")
    for kind, given, needed in (("columns", columns, NEEDED[formatting]), ("tags", tags, NEEDED_TAGS)):
        if missing := next((name for name in needed if given and name not in given), None):
            raise ValueError(
                f"{kind}: {missing!r} is missing; as in LLaMA-Factory, what you leave out has no default once you "
                f"write any of {kind}"
            )


def dataset_of_info(path, entries, files):
    """Return {format, files, columns, tags} of a dataset from the entries (split → name) of a `dataset_info.json`.

    `files` (split → source) are the user's own, which an entry on a hub needs. ValueError, with what to write instead,
    where an entry is not there, is no data for supervised fine-tuning, or differs from the entries of the other splits.
    """
    try:
        info = read_json(path, "give the path of a dataset_info.json, relative to the working directory")
    except UserError as error:
        raise ValueError(f"dataset_info: {str(error).rstrip('.')}") from None
    if not isinstance(info, dict):
        raise ValueError(f"dataset_info: {path} holds no object of entries")
    if extra := next((split for split in files if split not in entries), None):
        raise ValueError(f"files: {extra} has no entry; name it under entries, or leave it out")
    found = {}
    for split, name in entries.items():
        if name not in info:
            raise ValueError(f"entries: {name!r} is not in {path}{nearest(name, info)}")
        if not isinstance(info[name], dict):
            raise ValueError(f"entries: {name!r} of {path} is no object")
        try:
            found[split] = _layout_of(info[name]) | {
                "sources": files[split] if split in files else _files_of(info[name], Path(path).parent, split)
            }
        except ValueError as error:
            raise ValueError(f"entries: {name!r} of {path}: {error}") from None
    layouts = [{key: one[key] for key in ("format", "columns", "tags")} for one in found.values()]
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError(
            f"entries: {', '.join(map(repr, entries.values()))} differ in formatting, columns or tags; "
            "make them datasets of their own"
        )
    return layouts[0] | {"files": {split: one["sources"] for split, one in found.items()}}


def _layout_of(entry):
    """Return {format, columns, tags} of one entry, as far as they are no defaults."""
    if entry.get("ranking"):
        raise ValueError("is preference data (ranking), which these formats do not read")
    if entry.get("num_samples"):
        raise ValueError("num_samples draws rows by chance; leave it out, and write `limit` for a smoke run")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in FORMATS:
        raise ValueError(f"formatting {formatting!r} is not read; write sharegpt, with tags, or alpaca")
    columns, tags = entry.get("columns", {}), entry.get("tags", {}) if formatting == "sharegpt" else {}
    for kind, given in (("columns", columns), ("tags", tags)):
        if not isinstance(given, dict):
            raise ValueError(f"{kind} is no object")
    # LLaMA-Factory passes over what it does not know, and alpaca over the columns of sharegpt, in an entry.
    known = (*COLUMNS[formatting], *PREFERENCE)
    columns = {name: column for name, column in columns.items() if name in known and isinstance(column, str)}
    tags = {name: tag for name, tag in tags.items() if name in TAGS and isinstance(tag, str)}
    for kind, left in (("columns", columns), ("tags", tags)):
        if kind in entry and not left and (kind, formatting) != ("tags", "alpaca"):
            raise ValueError(f"{kind} names none of {formatting}; leave it out, and its defaults hold")
    check_layout(formatting, columns, tags)
    return {"format": formatting, "columns": columns, "tags": tags}


def _files_of(entry, folder, split):
    """Return the sources of an entry: its file, or all files of its folder."""
    if hub := entry.get("hf_hub_url"):
        raise ValueError(
            f"is on the hub ({hub}), and does not say which file; add "
            f"`files: {{{split}: {{hub: {hub}, revision: null, file: <its path there>}}}}`"
        )
    elsewhere = next((key for key in ELSEWHERE if key in entry), None)
    if elsewhere or not isinstance(entry.get("file_name"), str):
        raise ValueError(f"has {elsewhere or 'no file_name'}; save the rows as a file and name it as file_name")
    place = folder / entry["file_name"]
    if place.is_dir():
        return sorted(path.as_posix() for path in place.iterdir() if path.is_file())
    return [place.as_posix()]


# ---------------------------------------------------------------- rows in


def conversation(row, recipe):
    """Return (prepared, reason) of a raw row: {text, meta, media}, or why it cannot be used.

    recipe: format, columns, tags. `text` is what the users say, `meta` has `messages` (role, content; roles user,
    assistant, system, observation, function_call), `spelt`, and tools, images and audios where there are any; `media`
    the videos.
    """
    columns = recipe["columns"] or DEFAULT_COLUMNS[recipe["format"]]
    try:
        messages = _alpaca(row, columns) if recipe["format"] == "alpaca" else _sharegpt(row, columns, recipe["tags"])
        system = _text(row.get(columns.get("system")), columns.get("system"))
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        # As in LLaMA-Factory, an empty one is none: the chat template has its own.
        messages = [message for message in messages if message["role"] != "system" or message["content"]]
        media = _media(row, columns, messages)
        tools = row.get(columns.get("tools"))
    except _Unusable as reason:
        return None, str(reason)
    meta = {"messages": messages, "spelt": row.text} | {kind: media[kind] for kind in media if kind != "videos"}
    if tools:
        meta["tools"] = tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)
    prepared = {"text": "\n".join(one["content"] for one in messages if one["role"] == "user"), "meta": meta}
    if "videos" in media:
        prepared["media"] = [
            {"type": "video", "path": path, "sha256": None, "duration_s": None} for path in media["videos"]
        ]
    return prepared, None


class _Unusable(Exception):
    """Why a row cannot be used."""


def _text(value, name, empty=None):
    """Return a cell as text, None as nothing; `empty`: the reason where it must hold something."""
    if value is not None and type(value) is not str:
        raise _Unusable(f"{name} is {_kind(value)}, not text")
    if empty and not (value or "").strip():
        raise _Unusable(empty)
    return value or ""


def _kind(value):
    kinds = ((bool, "true or false"), (list, "a list"), (dict, "an object"), (str, "a number"))
    return next((kind for one, kind in kinds if isinstance(value, one)), "nothing")


def _alpaca(row, columns):
    if missing := next((field for field in NEEDED["alpaca"] if columns[field] not in row), None):
        raise _Unusable(f"no column {columns[missing]!r}; map it with `columns: {{{missing}: <your column>}}`")
    turns = row.get(columns.get("history")) or []
    pairs = turns if isinstance(turns, list) else [turns]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise _Unusable(f"{columns['history']} is no list of [prompt, answer]")
    messages = []
    for number, (asked, answer) in enumerate(pairs, start=1):
        place = f"{columns['history']} {number}"
        messages.append({"role": "user", "content": _text(asked, place, f"{place}: empty prompt")})
        messages.append({"role": "assistant", "content": _text(answer, place, f"{place}: empty answer")})
    parts = [_text(row.get(columns[field]), columns[field]) for field in ("prompt", "query") if field in columns]
    asked = _text("\n".join(part for part in parts if part), "prompt", "empty prompt")
    answer = _text(row[columns["response"]], columns["response"], "empty answer")
    return [*messages, {"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _sharegpt(row, columns, tags):
    tags = tags or {tag: default for tag, (default, _) in TAGS.items()}
    roles = {tags[tag]: role for tag, (_, role) in TAGS.items() if role and tag in tags}
    name = columns["messages"]
    if name not in row:
        raise _Unusable(f"no column {name!r}; map it with `columns: {{messages: <your column>}}`")
    if not isinstance(row[name], list):
        raise _Unusable(f"{name} is no list of messages")
    messages = []
    for number, message in enumerate(row[name], start=1):
        if not isinstance(message, dict) or not {tags["role_tag"], tags["content_tag"]} <= set(message):
            raise _Unusable(f"message {number} is no object with {tags['role_tag']!r} and {tags['content_tag']!r}")
        spelt = message[tags["role_tag"]]
        role = roles.get(spelt) if type(spelt) is str else None
        if role is None:
            raise _Unusable(f"message {number}: role {str(spelt)[:40]!r} is not one of {', '.join(map(str, roles))}")
        turn = number - 1 - (messages[:1] != [] and messages[0]["role"] == "system")
        expected = ("system", *ASKING) if number == 1 else (ASKING, ANSWERING)[turn % 2]
        if role not in expected:
            raise _Unusable(f"message {number}: roles out of order, {spelt!r} cannot stand here")
        empty = {"assistant": "empty answer", "function_call": "empty answer", "user": "empty prompt"}.get(role)
        place = f"message {number}"
        content = _text(message[tags["content_tag"]], place, empty and f"{place}: {empty}")
        messages.append({"role": role, "content": content})
    if not any(message["role"] in ANSWERING for message in messages):
        raise _Unusable("no answer to train on")
    if messages[-1]["role"] not in ANSWERING:
        raise _Unusable("ends without an answer")
    return messages


def _media(row, columns, messages):
    """Return {images, videos, audios: paths}, without the empty ones; each path has its token in the messages."""
    media = {}
    for kind, token in MEDIA.items():
        tokens = sum(one["content"].count(token) for one in messages if one["role"] != "system")
        if kind not in columns:
            if tokens and row.get(kind):
                raise _Unusable(f"{token} in a message, but no column for it; write `columns: {{{kind}: {kind}}}` too")
            continue
        paths = row.get(columns[kind]) or []
        paths = paths if isinstance(paths, list) else [paths]
        if not all(type(path) is str and path for path in paths):
            raise _Unusable(f"{columns[kind]} is no list of paths")
        if len(paths) != tokens:
            raise _Unusable(f"{len(paths)} {columns[kind]}, but {tokens} {token} in the messages")
        if paths:
            media[kind] = paths
    return media


def another_name(uid, prepared, seen):
    """Return a name for a row whose id another row has: LLaMA-Factory knows no ids, and mixed files repeat them."""
    named = f"{uid}-{digest(prepared['meta']['messages'])[:12]}"
    names = itertools.chain([named], (f"{named}-{count}" for count in itertools.count(2)))
    return next(name for name in names if name not in seen)


def attach_conversation_videos(rows, folder, recipe, scratch, workers):
    """Return (rows with `media`, [(row, facts)] of those with an unusable video, facts per file, files of frames).

    As `videos.attach_videos`, but a row has as many videos as its messages show. A path that is not in `folder` as it
    stands, such as one of another machine, is looked for there by its file name.
    """
    shown = []
    for row in rows:
        for medium in row.get("media", ()):
            path = Path(medium["path"])
            inside = not path.is_absolute() and Path(folder, path).is_file()
            shown.append(row | {"meta": {"video": path.as_posix() if inside else path.name}})
    if not shown:
        return rows, [], [], []
    found, without, facts, files = attach_videos(
        shown, folder, recipe["videos"], recipe["name"], scratch, None, workers
    )
    usable = {row["uid"]: [] for row in rows}
    for row in found:
        usable[row["uid"]] += row["media"]
    unusable = {row["uid"]: (row, told) for row, told in reversed(without)}
    kept = [
        row | ({"media": usable[row["uid"]]} if row.get("media") else {}) for row in rows if row["uid"] not in unusable
    ]
    return kept, [unusable[row["uid"]] for row in rows if row["uid"] in unusable], facts, files


def write_spelling(folder, recipe, raw):
    """Write how the rows of a prepared dataset were spelt; raw: split → its raw files."""
    frames = {split: json_frame(paths[0]) for split, paths in raw.items()}
    spelling = {"formatting": recipe["format"], "columns": recipe["columns"], "tags": recipe["tags"], "frames": frames}
    write_json(Path(folder) / SPELLING, spelling)


# ---------------------------------------------------------------- training


def conversation_examples(rows):
    """Return (examples, dropped): an example for each answer of prepared rows; (uid, reason) where there is none.

    An answer is learned after all that stands before it, the answers of the same conversation among them. So each
    token of an answer that LLaMA-Factory learns is learned after the same text; there a conversation is one row.
    """
    examples, dropped = [], []
    for row in rows:
        if reason := _untrainable(row):
            dropped.append((row["uid"], reason))
            continue
        messages = _showing(row["meta"]["messages"], [medium["frames"] for medium in row["media"] or ()])
        answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        for number, index in enumerate(answers, start=1):
            uid = row["uid"] if len(answers) == 1 else f"{row['uid']}#{number}"
            examples.append(Example(uid, messages[:index], messages[index]["content"]))
    return examples, dropped


def _showing(messages, videos):
    """Return messages in which each `<video>` is a video, named by the digest of its frames; see `with_videos`."""
    if not videos:
        return messages
    left, shown = iter(videos), []
    for message in messages:
        first, *others = message["content"].split(MEDIA["videos"])
        parts = [first]
        for text in others:
            parts += [{"type": "video", "video": next(left)}, text]
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts if part]
        shown.append(message | {"content": content} if others and message["role"] != "system" else message)
    return shown


def _untrainable(row):
    meta = row["meta"]
    if meta.get("tools") or any(message["role"] in ("observation", "function_call") for message in meta["messages"]):
        return "calls tools, which is not trained on"
    if kind := next((kind for kind in MEDIA if meta.get(kind)), None):
        return f"has {kind}, which are not trained on"
    if any(not medium.get("frames") for medium in row["media"] or ()):
        return "has videos; say where they are, with `videos: {path: ...}` in the dataset"
    if any(MEDIA["videos"] in one["content"] for one in meta["messages"] if row["media"] and one["role"] != "user"):
        return "shows a video in an answer, which is not trained on"
    return None
