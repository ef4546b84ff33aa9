"""Experts to GPUs under measured load: replicas, a placement, and a bound that no other beats."""
