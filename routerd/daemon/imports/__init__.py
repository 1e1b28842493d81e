"""Configurations of other routers to routes.yaml: what they say is carried over, what has no word here is said with its line.

    source      their YAML with the line of every key, and the list of what could not be carried over
    litellm     a proxy's config.yaml
    llamaswap   llama-swap's config.yaml
    openrouter  a starter from the list of models
    write       plain values to the text of routes.yaml

A reader takes the keys that it knows out of a section; what is left over is reported, so nothing is lost in silence. The result
always compiles: a step that could not be carried over is left out, and a model without any step is reported.
"""

from __future__ import annotations

__all__: list[str] = []
