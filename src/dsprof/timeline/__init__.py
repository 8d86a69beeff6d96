"""What a report says as a timeline in Perfetto's own format: its bytes, its tracks, and the page that opens it."""
