"""What control gets from providers for all workers: access tokens. Nothing of it is on the path of a request."""

from routerd.daemon.outside.errands import Errands
from routerd.daemon.outside.session import Outside, OutsideFault, Reply
from routerd.daemon.outside.tokens import TokenKeeper

__all__ = ["Errands", "Outside", "OutsideFault", "Reply", "TokenKeeper"]
