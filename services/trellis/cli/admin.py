"""`trellis admin …`: each command is in a module of its own, and is added here."""

from trellis.cli.commands import group
from trellis.cli.record_queue import record_queue
from trellis.cli.simulate import simulate
from trellis.cli.size import size
from trellis.cli.verify_isolation import verify_isolation


@group("admin")
def admin() -> None:
    """Try out and check a platform; for operators."""


admin.add_command(simulate)
admin.add_command(size)
admin.add_command(record_queue)
admin.add_command(verify_isolation)
