"""A document of the right shape to a Graph, or to everything that is wrong with what it means."""

from routerd.config.compile.cases import Case, compile_cases
from routerd.config.compile.context import Build
from routerd.config.compile.digest import digest
from routerd.config.compile.graph import compile_graph

__all__ = ["Build", "Case", "compile_cases", "compile_graph", "digest"]
