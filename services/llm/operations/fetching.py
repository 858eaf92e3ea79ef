"""Fetches models into the library, so that they can be asked for at once."""

import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from chassis.errors import Invalid
from services.llm.model import Fetched
from services.llm.operations.catalogue import Catalogue
from services.llm.ports import Library

# As Ollama takes them: a host, a namespace and a tag may be part of a name, a way out of a folder may not.
_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")


class Fetching:
    """The use-case."""

    def __init__(self, library: Library, catalogue: Catalogue) -> None:
        self._library = library
        self._catalogue = catalogue

    async def fetch(self, model: str, tell: Callable[[Fetched], Awaitable[None]]) -> None:
        """Fetches a model; one that is there is only looked at anew. Raises Invalid, and what `Library.pull` raises."""
        if not _NAME.fullmatch(model):
            raise Invalid("This is no name of a model", details={"field": "model"})
        async with aclosing(self._library.pull(model)) as steps:
            async for step in steps:
                await tell(step)
        await self._catalogue.refresh()
