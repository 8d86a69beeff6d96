"""Which range, stage and step each launch belongs to."""
