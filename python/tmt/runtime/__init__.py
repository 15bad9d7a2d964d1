"""What every command stands on: processes, signals, seeds, files, precision and provenance."""
