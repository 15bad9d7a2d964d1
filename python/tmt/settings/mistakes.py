"""Mistakes on command lines in our words: the setting, what it must be, what was given, and where."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tmt.settings.fields import Declared
from tmt.settings.files import hint


def explain(text: str, names: Mapping[str, Declared], program: str) -> str:
    """The parser's message in our words; as it is where it is of none of the known kinds."""
    text = " ".join(text.split())
    end = f"; see {program} --help"
    if found := re.match(r'(?:Parser key )?"(?P<name>[^"]+)": .*(?:Got|Given) value: (?P<value>.*)$', text):
        said = names.get(found["name"])
        return f"{found['name']}: must be {said or 'another value'}, got {found['value']}{end}"
    if found := re.match(r"(?:argument )?(?P<name>[\w.-]+): expected (one|at least one) argument", text):
        return f"{found['name']}: must be followed by a value, got none{end}"
    if found := re.search(r"unrecognized arguments: (?P<word>[^\s=]+)", text):
        options = [said.spelled(name) for name, said in names.items()]
        kind = "unknown option" if found["word"].startswith("-") else "must be left out, has no place here"
        return f"{found['word']}: {kind}{hint(found['word'], options)}{end}"
    if found := re.search(r"following arguments are required: (?P<names>.*)$", text):
        missing = [names[name].spelled(name) if name in names else name for name in found["names"].split(", ")]
        return f"{', '.join(missing)}: must be given{end}"
    return f"{text}{end}"


def located(message: str, argv: Sequence[str], origins: Mapping[str, Path]) -> str:
    """A message about a setting, beginning with the file that gave it, if a file did."""
    name = message.split(":")[0]
    on_line = any(word.split("=")[0] == f"--{name}" for word in argv)
    return message if on_line or name not in origins else f"{origins[name]}: {message}"
