"""Where an answer goes: collected whole, relayed as a stream, or passed on unread."""
