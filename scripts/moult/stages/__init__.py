"""What each rule makes, out of what, and by which recipe."""
