"""The jobs of dcryo: one function and one frozen config each."""
