# Blocks of a report as Markdown and as reStructuredText
#
# SPDX-License-Identifier: GPL-2.0-or-later

from dataclasses import dataclass, field


@dataclass
class Heading:
    """@level 1 is the report's title."""
    level: int
    text: str


@dataclass
class Text:
    """A paragraph"""
    text: str


@dataclass
class Items:
    """A list"""
    lines: list


@dataclass
class Table:
    """The first @words columns are text, the others numbers."""
    head: list
    rows: list = field(default_factory=list)
    words: int = 1


def markdown_lines(block):
    if isinstance(block, Heading):
        yield '#' * block.level + ' ' + block.text
    elif isinstance(block, Text):
        yield block.text
    elif isinstance(block, Items):
        yield from (f'- {line}' for line in block.lines)
    else:
        yield '| ' + ' | '.join(block.head) + ' |'
        yield '|' + ' --- |' * block.words + \
            ' ---: |' * (len(block.head) - block.words)
        for row in block.rows:
            yield '| ' + ' | '.join(row) + ' |'


def rst_table(block):
    yield '.. list-table::'
    yield '   :header-rows: 1'
    yield ''
    for row in [block.head, *block.rows]:
        for number, cell in enumerate(row):
            yield ('     - ' if number else '   * - ') + cell


def rst_lines(block):
    if isinstance(block, Heading):
        yield block.text
        yield '=-~'[block.level - 1] * len(block.text)
    elif isinstance(block, Text):
        yield block.text
    elif isinstance(block, Items):
        yield from (f'* {line}' for line in block.lines)
    else:
        yield from rst_table(block)


def render(blocks, lines):
    return '\n\n'.join('\n'.join(lines(block)) for block in blocks) + '\n'


def markdown(blocks):
    return render(blocks, markdown_lines)


def rst(blocks):
    """What can be included below a section's title"""
    return '..\n   Written by make bench\n\n' + render(blocks, rst_lines)
