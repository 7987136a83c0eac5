"""YAML as data: one document of plain values, and one sentence with file, line and column for what is none.

Such a file may come from anybody. It holds no tags, no key twice, no key of a template engine, and its depth and size
are bounded, every alias counted as what it stands for, before anything is built of it.
"""

import json
import re
from pathlib import Path
from typing import Any

from moult.base.errors import UserError
from moult.base.outside import one_line

MAX_BYTES, MAX_DEPTH, MAX_VALUES = 4_000_000, 40, 200_000
# The parser in Python takes a second for so many characters.
WORTH_WORDS = 100_000
MARKS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip"))
PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in "null bool int float str timestamp seq map merge value".split())
# Keys of the template engine to which Snakemake hands a config: they run code.
TEMPLATE = re.compile(r"__\w+__")
# What PyYAML says → what it means, and the remedy. The first that is found counts.
WORDS = (
    ("\\t", "a tab, which YAML does not take here; indent with blanks"),
    ("mapping values are not allowed", "a colon where none can be; put the text in quotes, or mend the indentation"),
    ("could not find expected ':'", "a key without a colon; write `key: value`, or mend the indentation"),
    ("unexpected end of stream", "a quote that is never closed; close it"),
    ("expected ',' or ']'", "a bracket [ that is not closed, or a comma that is missing; mend it"),
    ("expected ',' or '}'", "a brace { that is not closed, or a comma that is missing; mend it"),
    ("expected the node content", "a value that is missing, or a bracket that is not closed; mend it"),
    ("sequence entries are not allowed", "a list that begins behind a key; put its `-` on a line of its own"),
    ("expected '<document start>'", "an indentation that fits none of the lines before it; mend it"),
    ("expected <block end>", "an indentation that fits none of the lines before it, or a `-` that is missing; mend it"),
    ("found undefined alias", "a * that names nothing; put text that begins with * in quotes"),
    ("cannot start any token", "a character that cannot begin a value; put the text in quotes"),
    ("unknown escape character", "a backslash in double quotes that begins no escape; use single quotes"),
    ("but found another document", "a second document (`---`); keep one"),
    ("special characters are not allowed", "a character that is no text; save the file as plain UTF-8"),
)


def read_yaml(path: str | Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        UserError: it cannot be read, is no YAML, or holds what no file of ours needs (see above); one sentence.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; correct the path.") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a file in it.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); let this user read it.") from None
    if len(data) > MAX_BYTES:
        raise UserError(
            f"{path}: has more than {MAX_BYTES // 1_000_000} MB; nobody writes so much, so make it smaller."
        )
    if mark := next((name for start, name in MARKS if data.startswith(start)), None):
        raise UserError(f"{path}: is {mark}, not text in UTF-8; save it as UTF-8.")
    try:
        return parse_yaml(data.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise UserError(f"{path}, line {line}: is not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8.") from None


def parse_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML document; UserError, which begins with `source`, as `read_yaml`."""
    import yaml

    if text.lstrip()[:1] == "{" and (found := _json(text, source)) is not None:
        return found
    loader = None
    try:
        _check_depth(text, source)
        # The parser in C has no Unicode beyond what it is built for, and poorer words: it reads what is right.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(root, source)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise UserError(_in_our_words(text, source, error)) from None
    except (ValueError, OverflowError) as error:  # a timestamp such as 2026-13-41
        raise UserError(f"{source}: holds a value that cannot be ({one_line(error)}); put it in quotes.") from None
    finally:
        if loader is not None:
            loader.dispose()


def check_size(value: Any, source: str, most: int = MAX_VALUES) -> None:
    """Raise a UserError where plain data are nested deeper, or hold more values, than a file of ours may."""
    count, left = 0, [(value, 0)]
    while left:
        one, depth = left.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{source}: nested deeper than {MAX_DEPTH}, or holds itself; a config needs no such depth.")
        if count > most:
            raise UserError(f"{source}: holds more than {most:,} values; make it smaller.")
        parts = one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple) else ()
        left += [(part, depth + 1) for part in parts]


def _json(text, source):
    """Return the value of a JSON document, which YAML spells otherwise here and there; None where it is none."""

    def built(pairs):
        found = {}
        for key, value in pairs:
            if key not in found:
                found[key] = value
                continue
            raise UserError(
                f"{source}: the key {one_line(key, 60)!r} stands twice, and only one can count; leave one out."
            )
        if code := next((key for key in found if TEMPLATE.fullmatch(key)), None):
            raise UserError(f"{source}: the key {code} has a template engine run code out of a config; leave it out.")
        return found

    try:
        found = json.loads(text, object_pairs_hook=built)
    except RecursionError:
        raise UserError(f"{source}: nested deeper than {MAX_DEPTH}; a config needs no such depth.") from None
    except ValueError:
        return None
    check_size(found, source)
    return found


def _check_depth(text, source):
    """Refuse what is nested too deeply, without nesting as deeply."""
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise UserError(
                    f"{_place(source, event)}: nested deeper than {MAX_DEPTH}; a config needs no such depth."
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_nodes(root, source):
    """Refuse tags, keys that stand twice or are no words, keys of templates, and aliases without measure."""
    sizes, open_nodes = {}, set()

    def size(node):
        if id(node) in open_nodes:
            raise UserError(f"{_place(source, node)}: holds itself by an alias (*); write it out.")
        if id(node) in sizes:
            return sizes[id(node)]
        if node.tag not in PLAIN:
            tag = one_line(node.tag.replace("tag:yaml.org,2002:", "!!"), 60)
            raise UserError(f"{_place(source, node)}: the tag {tag} makes more than plain data; leave it out.")
        open_nodes.add(id(node))
        total = 1
        if node.id == "mapping":
            _check_keys(node, source)
        if node.id != "scalar":
            for one in node.value:
                total += sum(map(size, one)) if isinstance(one, tuple) else size(one)
                if total > MAX_VALUES:
                    raise UserError(
                        f"{_place(source, node)}: holds more than {MAX_VALUES:,} values, aliases (*) counted as what "
                        "they stand for; make it smaller."
                    )
        open_nodes.remove(id(node))
        sizes[id(node)] = total
        return total

    size(root)


def _check_keys(node, source):
    seen = {}
    for key, _ in node.value:
        if key.id != "scalar":
            raise UserError(f"{_place(source, key)}: a key that is a list or a mapping; put the key in quotes.")
        if TEMPLATE.fullmatch(key.value):
            raise UserError(
                f"{_place(source, key)}: the key {key.value} has a template engine run code out of a config; leave it "
                "out."
            )
        if key.tag.endswith(":merge"):
            continue
        if key.value in seen:
            raise UserError(
                f"{_place(source, key)}: the key {one_line(key.value, 60)!r} stands twice (first in line "
                f"{seen[key.value]}), and only one can count; leave one out."
            )
        seen[key.value] = key.start_mark.line + 1


def _place(source, marked):
    mark = getattr(marked, "start_mark", marked)
    return f"{source}, line {mark.line + 1}, column {mark.column + 1}"


def _in_our_words(text, source, error):
    """Return one sentence for an error of PyYAML; of the parser in Python, whose words are known."""
    import yaml

    try:
        if len(text) < WORTH_WORDS:
            yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as found:
        error = found
    told = one_line(str(error), 2000)
    words = next((words for said, words in WORDS if said in told), None)
    mark = getattr(error, "problem_mark", None)
    if mark is None and isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        mark = yaml.Mark("", 0, before.count("\n"), len(before) - before.rfind("\n") - 1, None, None)
    place = _place(source, mark) if mark else source
    problem = one_line(getattr(error, "problem", None) or told, 200)
    opened = getattr(error, "context_mark", None)
    if words and opened and mark and opened.line != mark.line and ("closed" in words):
        words += f" (it opens in line {opened.line + 1})"
    return f"{place}: not YAML: {words or f'{problem}; mend it'}."
