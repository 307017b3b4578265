"""Reading the topology: one YAML file, and every problem in it named by line, path and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas import backup, control, topology, zones
from schemas.failures import TopologyInvalid
from schemas.topology import Topology

Loc = tuple[int | str, ...]
_SHAPES = {
    "^https?": "write a URL that begins with http:// or https://",
    "^(/.+|": "write host:port, or the absolute path of a Unix socket",
    "^/": "write an absolute path",
    "^[A-Za-z_][": "write schema.table, as the catalogue has both",
    "^[A-Za-z0-9_": "write it as HAProxy's configuration has it: letters, digits, `_`, `.`, `:` and `-`",
}
"""What would be right, by how a field's pattern begins."""


def load_topology(path: str | Path) -> Topology:
    """The estate that the file declares.

    TopologyInvalid lists every problem, one a line: `FILE:LINE: services.0.members.2.host: what is wrong; what
    would be right`. The value of a field that holds a secret is never repeated there.
    """
    root = _compose(Path(path))
    problems = list(_duplicates(root))
    if not problems:
        try:
            return Topology.model_validate(_Loader.construct(root))
        except ValidationError as invalid:
            problems = [problem for error in invalid.errors() for problem in _explain(root, error)]
        except yaml.MarkedYAMLError as error:
            raise _malformed(Path(path), error) from error
    lines = [f"{path}:{line}: {where}: {text}" for line, where, text in sorted(problems)]
    raise TopologyInvalid("\n".join(dict.fromkeys(lines)))


class _Loader(yaml.SafeLoader):
    @classmethod
    def construct(cls, root: yaml.Node) -> Any:
        loader = cls("")
        try:
            return loader.construct_document(root)
        finally:
            loader.dispose()


def _compose(path: Path) -> yaml.Node:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise TopologyInvalid(
            f"{path}: can't be read: {error.strerror}; name a file that this user may read"
        ) from error
    except UnicodeDecodeError as error:
        raise TopologyInvalid(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        raise _malformed(path, error) from error
    except yaml.YAMLError as error:
        raise TopologyInvalid(f"{path}: is not YAML: {str(error).splitlines()[0]}; remove it") from error
    if not isinstance(root, yaml.MappingNode):
        raise TopologyInvalid(f"{path}:1: is no topology; it begins with `regions:`, `zone:` and `services:`")
    return root


def _malformed(path: Path, error: yaml.MarkedYAMLError) -> TopologyInvalid:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 1
    context = f" {error.context}" if error.context else ""
    return TopologyInvalid(
        f"{path}:{line}: is not well-formed YAML: {error.problem}{context}; look at the quotes, indentation and colons"
        " there and on the line before"
    )


def _duplicates(root: yaml.Node) -> Iterator[tuple[int, str, str]]:
    """Fields given twice: YAML's own reader would silently take the last."""
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node, str]] = [(root, "")]
    while waiting:
        node, place = waiting.pop()
        if id(node) in seen:  # an alias, perhaps to a node that holds it
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, f"{place}{index}.") for index, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                name = str(key.value)
                if name in first and name != "<<":
                    yield line, place + name, f"is given already on line {first[name]}; keep one of them"
                first.setdefault(name, line)
                waiting.append((value, f"{place}{name}."))


def _explain(root: yaml.Node, error: ErrorDetails) -> Iterator[tuple[int, str, str]]:
    """Line, path and text of one of pydantic's errors; a model's own check may name several places."""
    kind, (path, line) = error["type"], _locate(root, error["loc"])
    if kind != "value_error":
        yield line, ".".join(map(str, path)) or "the file", _text(error, path)
        return
    if isinstance(error["input"], str):  # one field's own check, which can't know where it stands
        yield line, ".".join(map(str, path)), str(error["ctx"]["error"])
        return
    for problem in str(error["ctx"]["error"]).splitlines():
        place, _, text = problem.partition(": ")
        parts: Loc = tuple(int(part) if part.isdigit() else part for part in place.split("."))
        path_of, line_of = _locate(root, (*path, *parts))
        yield line_of, ".".join(map(str, path_of)), text


def _locate(root: yaml.Node, loc: Loc) -> tuple[Loc, int]:
    """The path in the file, without the tags of unions that pydantic adds, and the line of its deepest node."""
    node: yaml.Node | None = root
    line = root.start_mark.line + 1
    path: list[int | str] = []
    for part in loc:
        children = _children(node)
        if part in children:
            line, node = children[part]
        elif part in _kinds_in(children):
            continue
        else:
            node = None
        path.append(part)
    return tuple(path), line


def _kinds_in(children: dict[int | str, tuple[int, yaml.Node]]) -> set[object]:
    """The group's own kind, or what it may be where it names none."""
    return (
        {children["kind"][1].value}
        if "kind" in children
        else {backup.DEFAULT_KIND, control.DEFAULT_KIND, zones.DEFAULT_KIND, topology.DEFAULT_KIND}
    )


def _children(node: yaml.Node | None) -> dict[int | str, tuple[int, yaml.Node]]:
    if isinstance(node, yaml.SequenceNode):
        return {index: (child.start_mark.line + 1, child) for index, child in enumerate(node.value)}
    if isinstance(node, yaml.MappingNode):
        return {str(key.value): (key.start_mark.line + 1, value) for key, value in node.value}
    return {}


def _text(error: ErrorDetails, path: Loc) -> str:
    """What is wrong; what would be right."""
    kind, context, name = error["type"], error.get("ctx", {}), str(path[-1]) if path else ""
    given = _shown(error["input"], name)
    if kind == "extra_forbidden":
        return f"is no field that is known here; {_suggest(name, _fields_at(path[:-1], error['loc']))}"
    if kind == "missing":
        return "is missing; add it"
    if kind == "string_pattern_mismatch":
        if "env|file" in context["pattern"]:
            return "is no reference to a secret; write env:NAME, file:PATH or aws-sm:NAME, never the secret itself"
        for beginning, told in _SHAPES.items():
            if context["pattern"].startswith(beginning):
                return f"{given} is not allowed; {told}"
        return (
            f"{given} is no name; use at most 63 lower-case letters, digits, `-`, `_` and `.`, a letter or digit first"
        )
    if kind == "literal_error":
        options = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return f"{given} is not known; {_suggest(str(error['input']), options)}"
    if kind == "union_tag_invalid":
        options = context["expected_tags"].replace("'", "").split(", ")
        return f"its kind `{context['tag']}` is not known; {_suggest(str(context['tag']), options)}"
    if kind == "union_tag_not_found":
        return "has no `kind`; say which kind it is"
    if kind == "string_type":
        return f"{given} is not text; put it in quotes"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{given} is not a group of fields; indent its fields below it"
    if kind == "list_type":
        return f"{given} is not a list; begin each entry with `- `"
    if kind == "too_short":
        return f"has {context['actual_length']} entries; give at least {context['min_length']}"
    wanted = error["msg"].removeprefix("Input ")
    return f"{given} is not allowed; it {wanted}" if wanted != error["msg"] else f"{given}: {wanted}"


def _shown(value: object, name: str) -> str:
    """The value as the file has it, short; never that of a field which may hold a secret."""
    if any(word in name for word in ("password", "secret", "key")):
        return "the value"
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "…"
    return "nothing" if value is None else f"a {'list' if isinstance(value, list) else 'group of fields'}"


def _suggest(word: str, options: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), options, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known here: {', '.join(options)}" if options else "remove it"


def _fields_at(path: Loc, loc: Loc) -> list[str]:
    """Fields of the model at `path`; `loc` still has the tags that tell the members of a union apart."""
    models: list[type[BaseModel]] = [Topology]
    for part in path:
        if isinstance(part, int):
            continue
        annotations = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)]
    tagged = [model for model in models if _kind_of(model) in loc]
    return sorted({name for model in tagged or models for name in model.model_fields})


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in `list[A | B]`, `Annotated[A | B, …]`, `A | None` …"""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _kind_of(model: type[BaseModel]) -> object:
    kind = model.model_fields.get("kind")
    return next(iter(get_args(kind.annotation)), None) if kind is not None else None
