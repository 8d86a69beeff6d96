"""From a report to its tables: read, worked through in one part or many, kept, used again."""
