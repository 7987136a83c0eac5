"""What a build will need, where it would run, and what it would cost."""
