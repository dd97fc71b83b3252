"""Optimisation on plain arrays: callables in, states out.  Nothing here knows about microscopes."""
