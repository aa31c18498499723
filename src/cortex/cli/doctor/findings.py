"""What a check has found: how it stands, and what to do where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from rich.console import Group
from rich.text import Text


class Grade(Enum):
    """How a thing stands; the value is how it is marked."""

    WELL = "✓"
    WARNING = "!"
    WRONG = "✗"


_STYLES = {Grade.WELL: "green", Grade.WARNING: "yellow", Grade.WRONG: "red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: the *subject*, what is so, and the *remedy* if something is to be done."""

    grade: Grade
    subject: str
    said: str
    remedy: str = ""


def well(subject: str, said: str) -> Finding:
    """Return that all is as it should be."""
    return Finding(Grade.WELL, subject, said)


def warning(subject: str, said: str, remedy: str) -> Finding:
    """Return that something works now, and may not for long or for all."""
    return Finding(Grade.WARNING, subject, said, remedy)


def wrong(subject: str, said: str, remedy: str) -> Finding:
    """Return that something does not work."""
    return Finding(Grade.WRONG, subject, said, remedy)


def report(findings: Iterable[Finding]) -> Group:
    """Return the findings one below the other, each remedy under its own."""
    printed: list[Text] = []
    for finding in findings:
        mark = Text(f"{finding.grade.value} ", style=_STYLES[finding.grade])
        printed.append(mark + Text(f"{finding.subject}: ", style="bold") + Text(finding.said))
        if finding.remedy:
            printed.append(Text(f"    → {finding.remedy}"))
    return Group(*printed)


def summary(findings: Iterable[Finding]) -> str:
    """Return the one line that says how all of it stands."""
    grades = [finding.grade for finding in findings]
    bad, doubtful = grades.count(Grade.WRONG), grades.count(Grade.WARNING)
    if not bad and not doubtful:
        return f"{len(grades)} checks, all well."
    return f"{len(grades)} checks: {bad} wrong, {doubtful} to look at."
