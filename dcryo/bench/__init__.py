"""dcryo beside its peers: workloads, subjects that are timed in processes of their own, and what they say."""
