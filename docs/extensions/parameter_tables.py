"""Griffe extension of the documentation: a table of parameters, with types and defaults, for each public class.

A class whose docstring has no such table gets one from its constructor or fields; the texts are those of "Attributes:"
and of pydantic's `Field(description=...)`.
"""

from __future__ import annotations

import ast
from typing import Any

import griffe


class ParameterTables(griffe.Extension):
    """Adds the tables once a package is loaded."""

    def on_package(self, *, pkg: griffe.Module, **options: Any) -> None:
        """Add a table to the classes that the package exports."""
        for name in pkg.exports or ():
            member = pkg.members.get(str(name))
            target = member.final_target if isinstance(member, griffe.Alias) else member
            if isinstance(target, griffe.Class) and target.docstring:
                _add_table(target)


def _add_table(one: griffe.Class) -> None:
    sections = _parsed(one)
    described = {
        entry.name: entry.description
        for section in sections
        if isinstance(section, griffe.DocstringSectionAttributes)
        for entry in section.value
    }
    initialiser = one.members.get("__init__")
    given = [*sections, *(_parsed(initialiser) if initialiser else ())]
    if any(isinstance(section, griffe.DocstringSectionParameters) for section in given):
        return
    rows = _rows(one, described)
    named = {row.name for row in rows}
    if not rows or (named <= described.keys() and not any(row.value for row in rows)):
        return  # the table of attributes says the same
    kept = [section for section in sections if not isinstance(section, griffe.DocstringSectionAttributes)]
    place = next((n for n, section in enumerate(kept) if section.kind.value != "text"), len(kept))
    kept.insert(place, griffe.DocstringSectionParameters(rows))
    rest = [name for name in described if name not in named]
    for section in sections:
        if isinstance(section, griffe.DocstringSectionAttributes) and rest:
            kept.append(griffe.DocstringSectionAttributes([entry for entry in section.value if entry.name in rest]))
    assert one.docstring is not None
    one.docstring.__dict__["parsed"] = kept  # a cached property


def _parsed(one: griffe.Object | griffe.Alias) -> list[griffe.DocstringSection]:
    # The handler sets the style of docstrings later.
    return one.docstring.parse("google", warn_unknown_params=False) if one.docstring else []


def _rows(one: griffe.Class, described: dict[str, str]) -> list[griffe.DocstringParameter]:
    """Of the constructor; the annotated fields, inherited ones first, if it is generated or takes them by name."""
    initialiser = one.members.get("__init__")
    given = list(initialiser.parameters) if isinstance(initialiser, griffe.Function) else []
    rows = {
        parameter.name: griffe.DocstringParameter(
            parameter.name,
            annotation=parameter.annotation,
            description=described.get(parameter.name, ""),
            value=None if parameter.default is None else str(parameter.default),
        )
        for parameter in given
        if parameter.name != "self" and "variadic" not in str(parameter.kind.value)
    }
    if not given or any("variadic keyword" in str(parameter.kind.value) for parameter in given):
        for owner in (*reversed(one.mro()), one):
            for name, member in owner.members.items():
                if name not in rows and isinstance(member, griffe.Attribute) and _is_field(member):
                    rows[name] = _field(name, member, described.get(name, ""))
    return list(rows.values())


def _is_field(member: griffe.Attribute) -> bool:
    return (
        member.annotation is not None
        and not member.name.startswith("_")
        and "instance-attribute" in member.labels  # a ClassVar is not
    )


def _field(name: str, member: griffe.Attribute, description: str) -> griffe.DocstringParameter:
    """A field of a dataclass or a pydantic model, with the default and the description that it declares."""
    value = None if member.value is None else str(member.value)
    if value and value.lower().startswith("field("):
        call = ast.parse(value, mode="eval").body
        keywords = {word.arg: word.value for word in call.keywords} if isinstance(call, ast.Call) else {}
        text, default, factory = (keywords.get(word) for word in ("description", "default", "default_factory"))
        description = description or (str(text.value) if isinstance(text, ast.Constant) else "")
        value = ast.unparse(default) if default else f"{ast.unparse(factory)}()" if factory else None
    return griffe.DocstringParameter(name, annotation=member.annotation, description=description, value=value)
