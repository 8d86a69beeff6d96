"""What of two sides differs, and by how much: pure data, that knows nothing of files."""
