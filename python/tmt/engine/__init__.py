"""What every stage of training shares: processes, signals, checkpoints, records, and one training loop."""
