"""What runs where: plans, accumulation, durable commits, the merge tree, executors."""
