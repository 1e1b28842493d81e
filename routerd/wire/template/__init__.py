"""The template dialect: a service that speaks no known dialect, described in YAML.

`request` fills the body that goes there, `pointer` finds values in JSON (RFC 6901), `read` cuts answers into pieces by their
format (sse, ndjson, vercel, raw), `scan` makes OpenAI events of the pieces, `dialect` is what attempts use.
"""

from routerd.wire.template.dialect import TemplateDialect

__all__ = ["TemplateDialect"]
