"""The first screen: what of an analysis it shows (`summary`), how that is laid out, and in which form."""
