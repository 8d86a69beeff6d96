"""Which model ran, what its forwards cost, and what a GPU could do at most."""
