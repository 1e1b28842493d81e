"""What the dialects that translate share: OpenAI requests as typed records, answers and chunks as bytes, embeddings."""
