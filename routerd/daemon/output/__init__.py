"""What is written, and where: log, access records, problems, spans; colours for a terminal. Never a secret."""
