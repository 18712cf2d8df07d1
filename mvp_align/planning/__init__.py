"""What a run will do, found out before its model loads: plan, forecast, micro-batch."""
