"""Quantities that are taken from each part of a report, and added up."""
