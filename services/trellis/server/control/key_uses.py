"""Writes down when API keys were last used."""

from trellis.server.app.key_uses import KeyUses
from trellis.server.control.context import ControlContext


class WriteKeyUses:
    """Writes what this server's calls have noted."""

    name = "key_uses"

    def __init__(self, context: ControlContext, uses: KeyUses) -> None:
        self._context = context
        self._uses = uses

    async def once(self) -> bool:
        """One round."""
        await self._uses.write(self._context.units)
        return False
