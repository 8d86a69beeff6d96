"""One HTML file of an analysis: nothing else is needed to read it, and it asks for nothing from any network."""
