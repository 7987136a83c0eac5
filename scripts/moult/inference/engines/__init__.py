"""Engines: models of this build that answer chats and score labels."""
