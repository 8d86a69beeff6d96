"""What programs and agents are given: schemas of the documents, and a server of the Model Context Protocol."""
