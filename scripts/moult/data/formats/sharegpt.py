"""Sharegpt, a JSON format of LLaMA-Factory: a row has a list of messages, whose keys and roles `tags` spell."""

from moult.base.rows import Message
from moult.data.formats.conversations import MEDIA, Conversations, absent
from moult.data.formats.messages import ANSWERING, Unusable, messages_of
from moult.data.readers import RawRow


class Sharegpt(Conversations):
    name = "sharegpt"
    needed: tuple[str, ...] = ("messages",)
    fields: tuple[str, ...] = (*needed, "system", "tools", *MEDIA)
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
        messages = self.turns(row, columns, tags)
        if not any(message["role"] in ANSWERING for message in messages):
            raise Unusable("no answer to train on")
        if messages[-1]["role"] not in ANSWERING:
            raise Unusable("ends without an answer")
        return messages

    def turns(self, row: RawRow, columns: dict[str, str], tags: dict[str, str]) -> list[Message]:
        """Return the messages of a raw row, whoever has the last word; Unusable where they cannot be read."""
        tags = tags or {tag: default for tag, (default, _) in self.tags.items()}
        roles = {tags[tag]: role for tag, (_, role) in self.tags.items() if role and tag in tags}
        name = columns["messages"]
        if name not in row:
            raise Unusable(absent(row, "messages", name))
        return messages_of(row[name], name, tags["role_tag"], tags["content_tag"], roles)


FORMAT = Sharegpt()
