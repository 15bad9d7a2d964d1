"""Commands that are chosen by the first word of a command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tmt.errors import ConfigError
from tmt.settings.arguments import version_line
from tmt.settings.files import hint


@dataclass(frozen=True)
class Choice:
    """A program's commands."""

    program: str
    commands: Mapping[str, str]
    """What each does, by its name."""

    def of(self, argv: Sequence[str]) -> tuple[str | None, Sequence[str]]:
        """The command that a line names, and its arguments; None after printing help or the version.

        Raises ConfigError for a command that is none.
        """
        name, *rest = argv or ["--help"]
        if name in self.commands:
            return name, rest
        if name not in ("-h", "--help", "--version"):
            raise ConfigError(
                f"command: must be one of {', '.join(self.commands)}, got {name}{hint(name, self.commands)}; "
                f"see {self.program} --help"
            )
        print(version_line() if name == "--version" else self.usage())
        return None, []

    def usage(self) -> str:
        """The commands as text."""
        lines = [f"  {name:10}{text}" for name, text in self.commands.items()]
        return "\n".join([f"usage: {self.program} COMMAND ...; {self.program} COMMAND --help explains one", "", *lines])
