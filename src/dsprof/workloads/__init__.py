"""What runs inside the profiled process: light, so it imports no pandas, pyarrow, rich or typer."""
