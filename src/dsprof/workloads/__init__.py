"""What runs inside the profiled process: it stays light, and imports none of the analysis."""
