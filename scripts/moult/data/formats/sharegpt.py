"""Sharegpt, a JSON format of LLaMA-Factory: a row has a list of messages, whose keys and roles `tags` spell."""

from moult.base.rows import Message
from moult.data.formats.conversations import MEDIA, Conversations
from moult.data.formats.messages import ANSWERING, Unusable, messages_of
from moult.data.readers import RawRow


class Sharegpt(Conversations):
    name = "sharegpt"
    needed = ("messages",)
    fields = (*needed, "system", "tools", *MEDIA)
    defaults = {"messages": "conversations"}
    tags = {
        "role_tag": ("from", None),
        "content_tag": ("value", None),
        "user_tag": ("human", "user"),
        "observation_tag": ("observation", "observation"),
        "assistant_tag": ("gpt", "assistant"),
        "function_tag": ("function_call", "function_call"),
        "system_tag": ("system", "system"),
    }
    needed_tags = ("role_tag", "content_tag", "user_tag", "assistant_tag")

    def messages(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        tags = tags or {tag: default for tag, (default, _) in self.tags.items()}
        roles = {tags[tag]: role for tag, (_, role) in self.tags.items() if role and tag in tags}
        name = columns["messages"]
        if name not in row:
            raise Unusable(f"no column {name!r}; map it with `columns: {{messages: <your column>}}`")
        messages = messages_of(row[name], name, tags["role_tag"], tags["content_tag"], roles)
        if not any(message["role"] in ANSWERING for message in messages):
            raise Unusable("no answer to train on")
        if messages[-1]["role"] not in ANSWERING:
            raise Unusable("ends without an answer")
        return messages


FORMAT = Sharegpt()
