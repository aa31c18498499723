from __future__ import annotations

import click

from cortex.cli.main import cortex, neuron
from manpages import children, contexts, escaped, page, told


def test_text_is_shown_as_it_is() -> None:
    assert escaped(".conf in C:\\x, --all") == "\\&.conf in C:\\ex, \\-\\-all"
    assert escaped("one\n'two") == "one\n\\&'two"


def test_examples_keep_their_lines_and_paragraphs_do_not() -> None:
    description, examples = told("Do it,\nand well.\n\nMore.\n\n\b\nExamples:\n  a  b\n  c\n\fhidden")

    assert description == "Do it, and well.\n.PP\nMore."
    assert examples == ".nf\na  b\nc\n.fi"


def test_every_command_has_a_page_that_names_those_below_it() -> None:
    """Commands that are imported only when they are asked for, too."""
    paths = {
        context.command_path
        for program, name in ((cortex, "cortex"), (neuron, "neuron"))
        for context in contexts(program, name)
    }
    root = click.Context(cortex, info_name="cortex")

    assert {"cortex", "cortex serve", "cortex key create", "cortex doctor", "neuron serve"} <= paths
    assert all(f"\n.B {name}\n" in page(root, "1", "2000-01-01") for name, _ in children(root))


def test_a_page_tells_options_but_hidden_ones() -> None:
    (serve,) = (context for context in contexts(neuron, "neuron") if context.command_path == "neuron serve")
    text = page(serve, "1.2", "2000-01-01")

    assert text.startswith(
        '.TH NEURON\\-SERVE 1 "2000-01-01" "Cortex 1.2" "Cortex"\n.SH NAME\nneuron\\-serve \\- Run the daemon'
    )
    assert ".B \\-p, \\-\\-port INTEGER RANGE" in text
    assert "until" not in text
