"""What alpaca and sharegpt share, the JSON formats of LLaMA-Factory: rows that are whole conversations.

What the columns and tags of a dataset mean is said in data/README.md of hiyouga/LLaMA-Factory; where that is silent,
its converter decides: columns or tags that stand in the entry leave no default for those that do not, a system message
wins over the system column, `instruction` and `input` are joined by a line end. Its defaults train on every answer of
a conversation (`mask_history: false`) and on no prompt (`train_on_prompt: false`); so does `examples`.

A prepared row keeps the conversation, and the row as its file spells it, so that what goes in comes out (`exports.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from moult.base.errors import nearest
from moult.base.files import write_json
from moult.base.rows import CanonicalRow, Message, Recipe, Template
from moult.data.formats.base import DatasetEntry, Format, Shape
from moult.data.formats.messages import Unusable, text_of
from moult.data.parquet import read_rows
from moult.data.prompts import Example
from moult.data.readers import RawRow, json_frame, read_spelt
from moult.data.videos.attach import Attached, attach_videos, find_video

# The file of a prepared dataset that says how its rows were spelt.
SPELLING = "conversations.json"
MEDIA = {"images": "<image>", "videos": "<video>", "audios": "<audio>"}
PREFERENCE = ("chosen", "rejected", "kto_tag")
PRETRAINING = "is pre-training text, which has no answer to train on; give data with questions and answers"


class Conversations(Format):
    """A format of LLaMA-Factory. defaults: field → its column where a dataset names none. tags: tag → (its default,
    the role that it stands for; None: it names a key of a message); needed_tags: those to write once any is."""

    shape: Shape = "conversations"
    tagged = True
    # What `formatting` in a dataset_info.json says, where it is not the name of the format, and its `ranking`.
    formatting: str | None = None
    ranking = False
    answered_rows: Literal["all", "some", "none"] = "all"
    videos = True
    task = "conversation"
    language = "und"
    defaults: dict[str, str]
    tags: dict[str, tuple] = {}
    needed_tags: tuple[str, ...] = ()

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        """Return the conversation of a raw row as [{role, content}]; Unusable where it has none that can be used."""
        raise NotImplementedError

    def check(self, entry: DatasetEntry) -> None:
        self.check_layout(entry.columns, entry.tags)
        if entry.videos and "videos" not in entry.columns:
            columns = entry.columns or self.defaults | {"videos": "videos"}
            told = ", ".join(f"{name}: {column}" for name, column in columns.items())
            raise ValueError(f"columns: name the column of the videos too, e.g. `columns: {{{told}}}`")

    def check_layout(self, columns: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Raise ValueError, with what to write instead, where columns and tags cannot be read."""
        for name in columns:
            if name == "kto_tag":
                raise ValueError("columns: 'kto_tag' is of data for KTO, which are not read")
            if name in PREFERENCE and name not in self.fields:
                raise ValueError(f"columns: {name!r} is of preference data; write `format: {self.name}_pairs`")
            if name not in self.fields:
                raise ValueError(f"columns: {name!r} is no column of {self.name}{nearest(name, self.fields)}")
        if tags and not self.tags:
            raise ValueError("tags: only sharegpt has them; leave them out")
        if unknown := next((name for name in tags if name not in self.tags), None):
            raise ValueError(f"tags: {unknown!r} is no tag of {self.name}{nearest(unknown, self.tags)}")
        for kind, given, needed in (("columns", columns, self.needed), ("tags", tags, self.needed_tags)):
            if missing := next((name for name in needed if given and name not in given), None):
                raise ValueError(
                    f"{kind}: {missing!r} is missing; as in LLaMA-Factory, what you leave out has no default once you "
                    f"write any of {kind}"
                )

    def read(self, path: Path, recipe: Recipe) -> Iterator[tuple[int, RawRow, str | None]]:
        return read_spelt(path)

    def canonical(self, row: Any, recipe: Recipe, category: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return (prepared, reason) of a raw row: {text, meta, media}, or why it cannot be used.

        `text` is what the users say, `meta` has `messages` (role, content; roles user, assistant, system, observation,
        function_call), `spelt`, and tools, images and audios where there are any; `media` the videos.
        """
        columns = recipe["columns"] or self.defaults
        try:
            messages = self.messages(row, columns, recipe["tags"])
            system = text_of(row.get(columns.get("system")), columns.get("system"))
            if system and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": system})
            # As in LLaMA-Factory, an empty one is none: the chat template has its own.
            messages = [message for message in messages if message["role"] != "system" or message["content"]]
            media = _media(row, columns, messages)
            tools = row.get(columns.get("tools"))
        except Unusable as reason:
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

    def content(self, prepared: Mapping[str, Any]) -> Any:
        return prepared["meta"]["messages"]

    def another_name(self, uid: str, prepared: Mapping[str, Any], seen: dict[str, int]) -> str | None:
        """LLaMA-Factory knows no ids, and mixed files repeat them."""
        return self.named_by_content(uid, prepared, seen)

    def attach(
        self, rows: list[dict[str, Any]], folder: str | Path, recipe: Recipe, scratch: Path, wanted: int, workers: int
    ) -> Attached:
        """Return (rows with `media`, [(row, facts)] of those with an unusable video, facts per file, files of frames).

        Of the first `wanted` rows: a row has as many videos as its messages show, and one without any needs none. A
        path that is not in `folder` as it stands, such as one of another machine, is looked for by its file name.
        """
        rows, shown = rows[:wanted], []
        for row in rows:
            for medium in row.get("media", ()):
                path = Path(medium["path"])
                inside = not path.is_absolute() and find_video(folder, [path.as_posix()])[0]
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
            row | ({"media": usable[row["uid"]]} if row.get("media") else {})
            for row in rows
            if row["uid"] not in unusable
        ]
        return kept, [unusable[row["uid"]] for row in rows if row["uid"] in unusable], facts, files

    def write_beside(self, folder: str | Path, recipe: Recipe, paths: Mapping[str, Sequence[Path]]) -> None:
        """Write how the rows were spelt."""
        frames = {split: json_frame(found[0]) for split, found in paths.items()}
        spelling = {"formatting": self.formatting or self.name, "columns": recipe["columns"], "tags": recipe["tags"]}
        ranking = {"ranking": True} if self.ranking else {}
        write_json(Path(folder) / SPELLING, spelling | {"frames": frames} | ranking)

    def examples(
        self, folder: str | Path, split: str, template: Template
    ) -> tuple[list[Example], list[tuple[str, str]]]:
        """Return an example for each answer.

        An answer is learned after all that stands before it, the answers of the same conversation among them. So each
        token of an answer that LLaMA-Factory learns is learned after the same text; there a conversation is one row.
        """
        examples, dropped = [], []
        for row in read_rows(folder, split):
            if reason := untrainable(row):
                dropped.append((row["uid"], reason))
                continue
            messages = _showing(row["meta"]["messages"], [medium["frames"] for medium in row["media"] or ()])
            answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
            for number, index in enumerate(answers, start=1):
                uid = row["uid"] if len(answers) == 1 else f"{row['uid']}#{number}"
                examples.append(Example(uid, messages[:index], messages[index]["content"]))
        return examples, dropped


def _media(row, columns, messages):
    """Return {images, videos, audios: paths}, without the empty ones; each path has its token in the messages."""
    media = {}
    for kind, token in MEDIA.items():
        tokens = sum(one["content"].count(token) for one in messages if one["role"] != "system")
        if kind not in columns:
            if tokens and row.get(kind):
                raise Unusable(f"{token} in a message, but no column for it; write `columns: {{{kind}: {kind}}}` too")
            continue
        paths = row.get(columns[kind]) or []
        paths = paths if isinstance(paths, list) else [paths]
        if not all(type(path) is str and path for path in paths):
            raise Unusable(f"{columns[kind]} is no list of paths")
        if len(paths) != tokens:
            raise Unusable(f"{len(paths)} {columns[kind]}, but {tokens} {token} in the messages")
        if paths:
            media[kind] = paths
    return media


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


def absent(row: RawRow, field: str, column: str) -> str:
    """Return why a row without the column of a field cannot be used."""
    if set(row) == {"text"}:
        return PRETRAINING
    return f"no column {column!r}; map it with `columns: {{{field}: <your column>}}`"


def untrainable(row: CanonicalRow) -> str | None:
    """Return why a conversation is not trained on, None where it is. Tools that none calls are passed over."""
    meta = row["meta"]
    if any(message["role"] in ("observation", "function_call") for message in meta["messages"]):
        return "calls tools, which is not trained on"
    if kind := next((kind for kind in MEDIA if meta.get(kind)), None):
        return f"has {kind}, which are not trained on"
    if any(not medium.get("frames") for medium in row["media"] or ()):
        return "has videos; say where they are, with `videos: {path: ...}` in the dataset"
    if any(MEDIA["videos"] in one["content"] for one in meta["messages"] if row["media"] and one["role"] != "user"):
        return "shows a video in an answer, which is not trained on"
    return None
