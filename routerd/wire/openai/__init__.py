"""OpenAI's API, which is routerd's own form: bodies, answers, streams forwarded as they came, usage, quirks of vendors."""
