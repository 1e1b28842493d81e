"""The provider's side of the Messages API: `request` (with `prompt`, `tools`, `models`), `answer`, `stream`; `dialect` is all."""
