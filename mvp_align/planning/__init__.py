"""Plan a run before its model loads: batches, cost forecast, micro-batch size."""
