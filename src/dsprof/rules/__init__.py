"""What names mean: stages, steps, kernel families."""
