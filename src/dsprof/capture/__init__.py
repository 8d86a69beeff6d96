"""A program under nsys, and all that it said, in one folder."""
