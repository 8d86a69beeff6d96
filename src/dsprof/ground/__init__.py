"""What all else stands on and knows nothing of reports: files, folders, patterns, secrets, versions."""
