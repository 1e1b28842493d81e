"""Files to one tree of plain values with positions: read, parse, include, interpolate, presets. Knows not what most keys mean."""

from routerd.config.source.include import assemble
from routerd.config.source.interpolate import Filled, cast, interpolate, stand_in
from routerd.config.source.parse import Limits, parse
from routerd.config.source.presets import fill_in, preset_names, preset_text
from routerd.config.source.read import Input, Kept, Reader, ReadFailure

__all__ = [
    "Filled",
    "Input",
    "Kept",
    "Limits",
    "ReadFailure",
    "Reader",
    "assemble",
    "cast",
    "fill_in",
    "interpolate",
    "parse",
    "preset_names",
    "preset_text",
    "stand_in",
]
