"""A script or manifests, whichever a text is -> the commands that start in the end."""

from autopar.ingest.plan.commands.containers import started
from autopar.ingest.plan.commands.manifests import commands_of_manifests
from autopar.ingest.plan.commands.shell import Command, commands_in
from autopar.ingest.plan.commands.slurm import job_variables


def pasted_commands(text: str, label: str) -> list[Command]:
    """Return the commands of a script or of manifests, those inside of containers too.

    label: how messages name the text. Raises SpecError for a text that cannot be read.
    """
    listed = commands_of_manifests(text, label)
    if listed is None:
        listed = []
        for command in commands_in(text, label, job_variables(text)):
            applied = "-" in command.files and command.words[0] == "kubectl"
            inner = commands_of_manifests(command.files["-"], label) if applied else None
            listed += [command] if inner is None else inner
    return [each for command in listed for each in started(command, label)]
