"""Does the document have the right shape? The published JSON schema decides; a no is explained in our own words."""

from routerd.config.shape.mismatch import explain
from routerd.config.shape.schema import Schema, schema_json

__all__ = ["Schema", "explain", "schema_json"]
