"""Pasted text -> commands: the words of each, its environment, and the files that come with it.

Here belongs what shells, containers and manifests do to a command before it starts, whichever
engine it is of. Modules here import each other, `documents` and `errors`, and nothing of engines or
plans (.importlinter); what the words mean to an engine is read in the folder above.
"""

from autopar.ingest.plan.commands.pasted import pasted_commands
from autopar.ingest.plan.commands.shell import Command

__all__ = ["Command", "pasted_commands"]
