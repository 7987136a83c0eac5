"""The one exception whose text is written for the user."""


class UserError(Exception):
    """Something the user can put right: one sentence that names the file, the row or entry, and the remedy."""
