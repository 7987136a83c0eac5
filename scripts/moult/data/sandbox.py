"""Renders chat templates in a process of its own: `python -m moult.data.sandbox`, which `chats` starts.

A template is a stranger's program. It sees plain JSON in jinja2's sandbox, has some seconds of the processor and MEMORY
bytes, and neither the clock nor a draw. A line of standard input is a request {template, date, variables, chats,
seconds}; its reply is a line per chat: {text, asked}, with the forms in which it asked for the date, or {error}.
"""

import datetime
import json
import re
import resource
import signal
import sys
from functools import lru_cache

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 2**30
# A text may be so many characters longer than all that the chat holds.
ROOM = 1_000_000
# What strftime calls seconds and parts of them, alone or within a time.
_MOMENT = re.compile(r"%-?[SfsTXcr]")


class _Marked(jinja2.ext.Extension):
    """`{% generation %}`, by which templates mark what the assistant says: its body, as it stands."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without names that begin with an underscore."""

    def __setitem__(self, name, value):
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"sets {name!r} of a namespace")
        super().__setitem__(name, value)


class _Refused(Exception):
    """What a template asks for and is not given, in words that follow `the template`."""


def _raise(message):
    raise jinja2.exceptions.TemplateError(str(message))


def _as_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache
def _compiled(text):
    # What transformers' templates are given, without that which would differ from run to run.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Marked, jinja2.ext.loopcontrols]
    )
    del environment.filters["random"], environment.globals["lipsum"]
    environment.filters["tojson"] = _as_json
    environment.globals |= {
        "raise_exception": _raise,
        "namespace": _Namespace,
        "dict": lambda *args, **more: dict(*args, **more),
    }
    return environment.from_string(text)


def _render(template, date, variables, chat):
    asked = []

    def strftime_now(form):
        asked.append(form)
        if found := _MOMENT.search(form):
            raise _Refused(f"asks for the seconds of the clock ({found[0]}), and no two runs would be equal")
        return datetime.datetime.combine(date, datetime.time()).strftime(form)

    known = {"tools": None, "documents": None, "strftime_now": strftime_now} | variables | chat
    try:
        text = _compiled(template).render(known)
    except _Refused as error:
        return {"error": str(error)}
    except jinja2.exceptions.TemplateSyntaxError as error:
        return {"error": f"is no Jinja: {error.message}, line {error.lineno}"}
    except jinja2.exceptions.SecurityError as error:
        return {"error": f"does what no template may ({str(error).rstrip('.')})"}
    except jinja2.exceptions.UndefinedError as error:
        return {"error": f"asks for what is not there ({error.message})"}
    except jinja2.exceptions.TemplateError as error:
        return {"error": f"raises: {error.message or type(error).__name__}"}
    except MemoryError:
        return {"error": "needs too much memory"}
    except Exception as error:  # whatever Python raises under a template
        return {"error": f"fails: {type(error).__name__}, {str(error)[:200]}"}
    if len(text) > ROOM + 4 * len(json.dumps(chat)):
        return {"error": "writes a text without end"}
    return {"text": text, "asked": asked}


def _within(seconds, *arguments):
    # The kernel ends the process, whatever it is at: a multiplication hears no signal handler of Python's.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return _render(*arguments)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> None:
    """Answer the requests of standard input until it ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        asked = json.loads(line)
        date = datetime.date.fromisoformat(asked["date"])
        for chat in asked["chats"]:
            print(json.dumps(_within(asked["seconds"], asked["template"], date, asked["variables"], chat)), flush=True)


if __name__ == "__main__":
    main()
