"""Command lines. Nothing here imports torch before its command is called."""
