"""Rows: what a check found, and the table of them."""
import dataclasses
import json
import textwrap

RESULT_COLUMNS = 76


@dataclasses.dataclass
class Row:
    """One line of the table. `figures` is for machines, `result` for people; `wrong` says what was
    not as it should be, `cannot` why the engine itself cannot do what was to be checked."""

    engine: str
    version: str
    check: str
    result: str = ""
    figures: dict = dataclasses.field(default_factory=dict)
    wrong: list = dataclasses.field(default_factory=list)
    cannot: str = ""
    seconds: float = 0.0

    @property
    def state(self):
        if self.wrong:
            return "FAILED"
        return "cannot" if self.cannot else "passed"

    def expect(self, good, text):
        """Notes what is wrong, and goes on."""
        if not good:
            self.wrong.append(text)
        return good

    def say(self, text, **figures):
        """Adds to the result."""
        self.result = f"{self.result}; {text}" if self.result else text
        self.figures |= figures


def _cells(row):
    text = "\n".join(part for part in (row.result, row.cannot) if part)
    for wrong in row.wrong:
        text += f"\nwrong: {wrong}"
    lines = [part for line in text.strip().splitlines()
             for part in textwrap.wrap(line, RESULT_COLUMNS) or [""]]
    return row.check, lines or [""], row.state


def as_table(rows):
    """Text with one block of lines a row."""
    width = max([len(row.check) for row in rows] + [5])
    named = max([len(f"{row.engine} {row.version}") for row in rows] + [6])
    out = [f"{'engine':<{named}}  {'check':<{width}}  {'':<6}  result"]
    for row in rows:
        check, lines, state = _cells(row)
        engine = f"{row.engine} {row.version}"
        out.append(f"{engine:<{named}}  {check:<{width}}  {state}  {lines[0]}")
        out += [f"{'':<{named}}  {'':<{width}}  {'':<6}  {line}" for line in lines[1:]]
    return "\n".join(out)


def as_json(rows):
    """The same for machines."""
    return json.dumps([dataclasses.asdict(row) | {"state": row.state} for row in rows], indent=2)
