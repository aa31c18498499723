from __future__ import annotations

import io

from rich.console import Console

from cortex.cli.doctor.findings import report, summary, warning, well, wrong

ALL = [
    well("disk", "1 GiB free"),
    warning("clock", "is behind", "use NTP"),
    wrong("port", "is taken", "choose another"),
]


def test_each_finding_is_printed_with_what_to_do_under_it() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(report(ALL))

    assert out.getvalue().splitlines() == [
        "✓ disk: 1 GiB free",
        "! clock: is behind",
        "    → use NTP",
        "✗ port: is taken",
        "    → choose another",
    ]


def test_nothing_found_is_read_as_markup() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(report([wrong("[red]", "[/] said", "[bold]do")]))

    assert out.getvalue() == "✗ [red]: [/] said\n    → [bold]do\n"


def test_the_summary_counts_what_is_wrong_and_what_is_doubtful() -> None:
    assert summary(ALL) == "3 checks: 1 wrong, 1 to look at."
    assert summary(ALL[:1]) == "1 checks, all well."
