"""Licences: under which of them a model may be passed on, given those of the models that it is made of.

What is known here is known by its name alone, as the hub spells it. It is no legal advice: it stops what is plainly
not allowed, and what nobody has looked at.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TypeGuard

# Nothing is asked of what is made of these, but that their notices stay.
FREE = frozenset(
    (
        "afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc0-1.0 "
        "cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 etalab-2.0 isc mit ms-pl ncsa odc-by openmdw-1.0 pddl "
        "postgresql unlicense wtfpl zlib"
    ).split()
)
# What is made of these is passed on under the same licence: copyleft, and licences that a publisher wrote.
SAME = frozenset(
    (
        "agpl-3.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m cdla-sharing-1.0 "
        "creativeml-openrail-m epl-1.0 epl-2.0 eupl-1.1 eupl-1.2 gemma gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 "
        "llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 mpl-2.0 odbl openrail openrail++ osl-3.0"
    ).split()
)
# Creative Commons with attribution; each letter pair asks for something of its own.
COMMONS = re.compile(r"cc-by(?P<nc>-nc)?(?P<more>-sa|-nd)?-[1-4]\.[0-9]")
# What stands where a licence should, and is none.
NONE = frozenset(("", "unknown", "none", "other", "noassertion"))


def spelt_by_hub(name: str) -> str:
    """Return a licence's name as the hub spells it: `Apache-2.0` is `apache-2.0`, `Llama-3` is `llama3`."""
    spelling = re.sub(r"[\s_]+", "-", name.strip().lower())
    spelling = re.sub(r"-(only|or-later)$", "", spelling)
    return re.sub(r"^llama-(?=\d)", "llama", spelling)


def is_known(name: str) -> bool:
    """Whether it is known what a licence asks for."""
    name = spelt_by_hub(name)
    return name in FREE or name in SAME or bool(COMMONS.fullmatch(name))


def is_stated(name: str | None) -> TypeGuard[str]:
    """Whether the name of a licence is one."""
    return name is not None and spelt_by_hub(name) not in NONE


def refusals(own: str | None, ancestors: Mapping[str, str | None], permitted: Collection[str]) -> Iterator[str]:
    """Yield a phrase for each licence by which a model may not be passed on.

    own: the licence that it is to have. ancestors: model that it is made of → its licence; None where none is stated.
    permitted: licences that the user has read, and that permit it.
    """
    allowed = {spelt_by_hub(name) for name in permitted}
    if not is_stated(own):
        yield "its licence is not stated; write `license`"
        own = ""
    elif not is_known(own) and spelt_by_hub(own) not in allowed:
        yield _unread("it is", own)
    for ancestor, name in ancestors.items():
        if not is_stated(name):
            yield f"the licence of {ancestor}, of which it is made, is not stated; write `license` there"
        elif spelt_by_hub(name) in allowed:
            continue
        elif not is_known(name):
            yield _unread(f"{ancestor}, of which it is made, is", name)
        elif reason := _forbids(spelt_by_hub(name), own):
            yield f"{ancestor}, of which it is made, is under {name}, {reason}"


def _unread(who, name):
    return (
        f"{who} under {name}, of which Moult does not know what it permits; read it, and if it permits this, name it "
        "under `permitted` of `publish`"
    )


def _forbids(parent, own):
    """Return what forbids to pass on, under a licence `own`, what is made of something under `parent`; None: nothing.

    parent: known, and spelt as the hub spells it.
    """
    if parent in FREE:
        return None
    child = spelt_by_hub(own)
    commons, others = COMMONS.fullmatch(parent), COMMONS.fullmatch(child)
    if commons and commons["more"] == "-nd":
        return "which permits no changed copies"
    if (not commons or commons["more"]) and child != parent:
        return f"which what is made of it keeps; its own is {own or 'not stated'}"
    if commons and commons["nc"] and not (others and others["nc"]):
        return f"which permits no commercial use; its own, {own or 'not stated'}, does"
    return None
