"""Docstrings as help: lines are joined to paragraphs, which the terminal's width then cuts."""

import inspect
import re


def prose(docstring: str) -> str:
    """Give the text of a docstring, without its sections for arguments.

    Paragraphs that are indented are examples: they stay as they are.
    """
    text, _, _ = inspect.cleandoc(docstring).partition("\nArgs:\n")
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(map(_joined, paragraphs))


def parameters_joined(docstring: str) -> str:
    """Give a docstring with the text of each of its arguments on one line."""
    lines = inspect.cleandoc(docstring)
    text, heading, sections = re.split(r"(\n(?:Args|Attributes):\n|\Z)", lines, maxsplit=1)
    return text + heading + re.sub(r"\n {5,}(?=\S)", " ", sections)


def _joined(paragraph: str) -> str:
    return paragraph if paragraph.startswith(" ") else " ".join(paragraph.split())
