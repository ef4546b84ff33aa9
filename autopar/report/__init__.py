"""Say a result: as a document for programs (`json`), as text for people (`text`)."""
