"""What is in a picture: tags, verdicts on them, and objects with their masks."""
