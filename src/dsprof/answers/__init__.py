"""What measures and ranges say together: stages, requests, steps, roofs, verdicts."""
