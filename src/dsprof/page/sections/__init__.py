"""The parts of a page, a file for each: `section` gives it, or None where a report has nothing of it."""
