"""What control gets from providers for all workers: tokens and lists of models. It is on no request's path."""

from routerd.daemon.outside.discovery import Discovery
from routerd.daemon.outside.errands import Errands
from routerd.daemon.outside.session import Outside, OutsideFault, Reply
from routerd.daemon.outside.tokens import TokenKeeper

__all__ = ["Discovery", "Errands", "Outside", "OutsideFault", "Reply", "TokenKeeper"]
