"""What happened: event log -> timelines -> batches."""
