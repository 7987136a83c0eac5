"""What an editor shows of the config stands alone."""

import pytest
from moult.config.schema import schema

SCHEMA = schema()
SECTIONS = {"Config": SCHEMA} | SCHEMA["$defs"]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_and_key_has_a_description_of_its_own(name):
    section = SECTIONS[name]
    assert section["description"]
    for key, value in section["properties"].items():
        told = value.get("description", "")
        # A sentence, or a noun with what it is of: not "Of each node.", nor the second half of a neighbour's.
        assert told[:1].isupper() or told[:1] in "`[", f"{name}.{key}: {told!r}"
        assert told.endswith((".", "/v1")) and not told.startswith(("Of ", "Or ", "At most so")), (
            f"{name}.{key}: {told!r}"
        )
