"""HTTP in: the data plane (`app`, `chat`, `models`) and the admin pages (`admin`); errors become answers in `render` alone."""

from routerd.server.app import Gateway
from routerd.server.budget.admission import Remote
from routerd.server.generation import Generation

__all__ = ["Gateway", "Generation", "Remote"]
