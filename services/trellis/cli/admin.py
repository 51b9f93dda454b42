"""`trellis admin …`: each command is in a module of its own, and is added here."""

from trellis.cli.commands import group
from trellis.cli.simulate import simulate


@group("admin")
def admin() -> None:
    """Try out and check a platform; for operators."""


admin.add_command(simulate)
