"""The Anthropic dialect: OpenAI chat to the Messages API and back, and the Messages API as a second language of our own clients.

`outbound` is the provider's side: requests to a Claude, its answers and streams. `inbound` is the client's side: what an
Anthropic SDK asks and wants to hear, whatever the target speaks. `tokens` is what both know of counts and stop reasons.
Sans-I/O; what reads foreign bytes raises BadRequest (a client's) or ProtocolFault (an upstream's), or sets a scan's fault.
The endpoint's headers (`x-api-key`, `anthropic-version: 2023-06-01`) are the preset's affair.
"""

from routerd.wire.anthropic.inbound.client import MessagesClient
from routerd.wire.anthropic.outbound.dialect import AnthropicDialect

__all__ = ["AnthropicDialect", "MessagesClient"]
