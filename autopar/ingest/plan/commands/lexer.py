"""The text of a shell script -> the words of each simple command.

Quotes, escapes, continuations, comments, redirections and here-documents are those of POSIX (Shell
Command Language, 2.2 to 2.7), arrays those of bash. Redirections are left out, here-documents are
kept: `cat > options.yaml <<EOF` is how people hand a file on with a command.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from autopar.errors import SpecError, shorten
from autopar.ingest.plan.commands.expansion import MOST_CHARACTERS, Variables, closing, fields
from autopar.ingest.plan.commands.hosts import stated_hosts

MOST_WORDS = 100_000
_ENDS = ";&|\n"
_ASSIGNED = re.compile(r"[A-Za-z_]\w*\+?=", re.ASCII)
_QUOTED_ARRAY = re.compile(r'"\$\{([A-Za-z_]\w*)\[@\]\}"', re.ASCII)  # a word for each value
_REDIRECTION = re.compile(r"&?>>?[|&]?|<<<|<<-?|<&|<>?")


@dataclass(slots=True)
class Simple:
    """One simple command: its words, where it starts, and what is read or written by it.

    arrays: of assignments such as NAME=(a b). target: the file that its output goes to; document:
    its here-document. hosts: that a comment above it states.
    """

    line: int
    words: list[str] = field(default_factory=list)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    target: str = ""
    document: str | None = None
    hosts: tuple[str, ...] = ()


class Lexer:
    """Reads one script; variables: what commands so far have set, which the caller adds to."""

    def __init__(self, text: str, label: str, variables: Variables) -> None:
        self.text = text.replace("\r\n", "\n")
        self.label = label
        self.variables = variables
        self.place = 0
        self.count = 0
        self.hosts: tuple[str, ...] = ()
        self.pending: list[tuple[str, bool, bool, Simple]] = []  # here-documents that are to come

    def commands(self) -> Iterator[Simple]:
        """Yield simple commands, in order; words are expanded when they are reached.

        Raises SpecError for a quotation that is not closed, and for an absurd number of words.
        """
        command = Simple(1)
        while self.place < len(self.text):
            char = self.text[self.place]
            if char in " \t":
                self.place += 1
            elif char == "#":
                end = self.text.find("\n", self.place)
                end = len(self.text) if end < 0 else end
                stated = stated_hosts(self.text[self.place : end])
                self.hosts = self.hosts if stated is None else stated
                self.place = end
            elif self._redirected(command):
                continue
            elif char in _ENDS or char in "()":
                self.place += 1
                if char == "\n":
                    self._documents()
                if command.words or command.arrays:
                    yield command
                command = Simple(self._line())
            else:
                if not command.words:
                    command.line, command.hosts = self._line(), self.hosts
                self._word(command)
        if command.words or command.arrays:
            yield command

    def _line(self) -> int:
        return self.text.count("\n", 0, self.place) + 1

    def _redirected(self, command: Simple) -> bool:
        """Pass over a redirection with its target, if one stands here; keep a document's name."""
        start = self.place
        number = re.compile(r"\d+(?=[<>])", re.ASCII).match(self.text, start)
        match = _REDIRECTION.match(self.text, number.end() if number else start)
        if match is None or (match[0] == "&" or self.text.startswith(("<(", ">("), start)):
            return False
        self.place = match.end()
        while self.text[self.place : self.place + 1] in (" ", "\t"):
            self.place += 1
        from_here = self.place
        target = Simple(0)
        if self.place < len(self.text) and self.text[self.place] not in _ENDS + "()":
            self._word(target)
        word = " ".join(target.words)
        if match[0] in ("<<", "<<-"):
            raw = self.text[from_here : self.place]
            is_quoted = any(mark in raw for mark in "'\"\\")
            self.pending.append((word, match[0] == "<<-", is_quoted, command))
        elif match[0] in (">", ">>", ">|") and number is None:
            command.target = word
        return True

    def _documents(self) -> None:
        """Read the here-documents that begin on this line."""
        for end, is_indented, is_quoted, command in self.pending:
            lines: list[str] = []
            while True:
                if self.place >= len(self.text):
                    raise SpecError(
                        f"{self.label}: a here-document without its end, {shorten(end)}"
                    )
                stop = self.text.find("\n", self.place)
                stop = len(self.text) if stop < 0 else stop
                line = self.text[self.place : stop]
                self.place = stop + 1
                line = line.lstrip("\t") if is_indented else line
                if line == end:
                    break
                lines.append(line)
            text = "".join(f"{line}\n" for line in lines)
            command.document = text if is_quoted else self.variables.filled(text)
        self.pending.clear()

    def _word(self, command: Simple) -> None:
        """Add the word that starts here, or words where an unquoted value has blanks."""
        word: str | None = None
        while self.place < len(self.text):
            char = self.text[self.place]
            if char in " \t" + _ENDS + ")" or (char in "<>" and word is not None):
                break
            if char == "(":
                if word is not None and _ASSIGNED.fullmatch(word):
                    self._array(command, word)
                    return
                break
            array = _QUOTED_ARRAY.match(self.text, self.place)
            if array is not None and array[1] in self.variables.values:
                self.place += 1
                word = self._variable(command, word)
                self.place += 1
                continue
            if char == "$" and not self.text.startswith(("$'", '$"'), self.place):
                word = self._variable(command, word)
                continue
            part = self._part()
            word = word if part is None else (word or "") + part
        if word is not None:
            self._add(command, word)

    def _add(self, command: Simple, word: str) -> None:
        command.words.append(word)
        self.count += 1
        if self.count > MOST_WORDS:
            raise SpecError(f"{self.label}: more than {MOST_WORDS:,} words; expected commands")

    def _array(self, command: Simple, word: str) -> None:
        """Read the values of NAME=( ... ), which may stand on several lines."""
        end = closing(self.text, self.place)
        if end > len(self.text):
            raise self._unclosed(self.place)
        inner = Lexer(self.text[self.place + 1 : end - 1], self.label, self.variables)
        values = [each for simple in inner.commands() for each in simple.words]
        command.arrays[word] = values
        self.place = end

    def _variable(self, command: Simple, word: str | None) -> str | None:
        """Return the word so far with what stands for a variable; a shell splits it at blanks."""
        values, is_array, end = self.variables.expanded(self.text, self.place)
        if end > len(self.text) and not self._is_whole(end):
            raise self._unclosed(self.place)
        literal = values == [self.text[self.place : end]]
        self.place = end
        if literal or (word is not None and _ASSIGNED.match(word)):
            return (word or "") + " ".join(values)
        parts = values if is_array else [part for value in values for part in fields(value)]
        for part in parts[:-1]:
            self._add(command, (word or "") + part)
            word = None
        return (word or "") + parts[-1] if parts else word

    def _is_whole(self, end: int) -> bool:
        """Whether an expansion that reaches the end of the text is closed."""
        return not self.text.startswith(("$(", "${"), self.place) or end <= len(self.text)

    def _part(self) -> str | None:
        """Return what one character or quotation adds to a word; None for nothing."""
        text, place = self.text, self.place
        char = text[place]
        if char == "\\":
            following = text[place + 1 : place + 2]
            self.place += 2
            return None if following in ("\n", "") else following
        if char == "$":  # $'...' and $"...", whose quotation follows
            self.place += 1
            return None
        if char in "'`":
            end = text.find(char, place + 1)
            if end < 0:
                raise self._unclosed(place)
            self.place = end + 1
            return text[place + 1 : end] if char == "'" else text[place : end + 1]
        if char == '"':
            return self._double_quoted()
        self.place += 1
        return char

    def _double_quoted(self) -> str:
        start = self.place
        parts: list[str] = []
        place = start + 1
        while place < len(self.text):
            char = self.text[place]
            following = self.text[place + 1 : place + 2]
            if char == '"':
                self.place = place + 1
                return "".join(parts)[:MOST_CHARACTERS]
            if char == "\\" and following and following in '$`"\\\n':
                parts.append("" if following == "\n" else following)
                place += 2
            elif char == "$":
                values, _, place = self.variables.expanded(self.text, place)
                parts.append(" ".join(values))
            else:
                parts.append(char)
                place += 1
        raise self._unclosed(start)

    def _unclosed(self, place: int) -> SpecError:
        line = self.text.count("\n", 0, place) + 1
        return SpecError(
            f"{self.label}: line {line}: found {self.text[place]!r} that is not closed"
        )
