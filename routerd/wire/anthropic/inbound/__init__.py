"""The client's side of the Messages API: `request` (as an OpenAI body), `encoder` (answers and streams back), `native` (the same
client at an Anthropic target: as it came), `client` (which of the two), `errors`.
"""
