"""Tables and summaries made into something to look at; nothing is computed here."""
