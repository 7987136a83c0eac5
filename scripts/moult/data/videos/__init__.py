"""Videos: fetched, decoded once, attached to rows, and read again as frames."""
