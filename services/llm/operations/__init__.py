"""The use-cases: which provider answers, what an answer costs, and that a repeated request is answered only once."""

from services.llm.operations.catalogue import Catalogue, Route
from services.llm.operations.chats import Chats
from services.llm.operations.fetching import Fetching

__all__ = ["Catalogue", "Chats", "Fetching", "Route"]
