"""One set of mutations for files of every kind; a seed and a number give the same file always."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**39, 10**400, 1e308, -1e-308, 0.5, float("nan"),
    float("inf"), "", " ", "x", "1", "a\0b", "\ud800", "\u202e", "../../etc/passwd", "/dev/zero", "<b>", "x" * 20_000,
    [], {}, [None], [[]], {"": None}, ["x"] * 500, {"a": {"b": [1, {"c": None}]}}, [1e999], list(range(300)),
)  # fmt: skip
TOKENS = (
    b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"\\", b"{", b"[", b"}", b"]", b",", b":", b"\t", b"\n", b"\r", b"NaN",
    b"null", b"1e999", b"\\ud800", b"\xef\xbb\xbf", b"-", b"9" * 5000, b"9" * 60, b"&a", b"*a", b"<<: *a", b"!!int ''",
    b"|", b"- ", b"%", b"'", b" " * 200, b"\xff\xfe", b"\x1f\x8b",
)  # fmt: skip


def mutations(content: bytes, *, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield (kind, changed content) `count` times, every kind in turn."""
    kinds = list(_KINDS.items())
    for number in range(count):
        name, mutate = kinds[number % len(kinds)]
        generator = random.Random(f"{seed}-{number}")
        yield name, mutate(content, generator)


def _truncate(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content) + 1)]


def _flip_bits(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    # Headers decide most, so half of the flips are near the start.
    for _ in range(generator.choice((1, 1, 3, 20))):
        end = len(changed) if generator.random() < 0.5 else min(len(changed), 160)
        if end:
            changed[generator.randrange(end)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _insert_token(content: bytes, generator: random.Random) -> bytes:
    for _ in range(generator.choice((1, 1, 2, 5))):
        at = generator.randrange(len(content) + 1)
        content = content[:at] + generator.choice(TOKENS) + content[at + generator.choice((0, 0, 1, 7)) :]
    return content


def _move_part(content: bytes, generator: random.Random) -> bytes:
    start, end = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    at = generator.randrange(len(content) + 1)
    return content[:at] + content[start:end] + content[at:]


def _change_number(content: bytes, generator: random.Random) -> bytes:
    places = [at for at, byte in enumerate(content) if 48 <= byte <= 57]
    if not places:
        return _insert_token(content, generator)
    at = generator.choice(places)
    numbers = (
        b"-1",
        b"0",
        b"1e400",
        b"9" * 30,
        b"9" * 5000,
        b"0x" + b"f" * 5000,
        b"1" + b":1" * 500,
        b"NaN",
        b"0.0001",
    )
    return content[:at] + generator.choice(numbers) + content[at + 1 :]


def _long_line(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) + 1)
    return content[:at] + generator.choice((b"x", b"\n", b"\t", b'"', b"\\u0000", b"[]", b"a,")) * 20_000 + content[at:]


def _nest(content: bytes, generator: random.Random) -> bytes:
    depth = generator.choice((60, 70, 500, 50_000))
    start, end = generator.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"(", b")")))
    at = generator.choice((0, generator.randrange(len(content) + 1)))
    return content[:at] + start * depth + content[at:] + end * depth


def _bomb(content: bytes, generator: random.Random) -> bytes:
    width, levels = generator.choice(((9, 9), (2, 40), (50, 4)))
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return generator.choice((b"", content + b"\n")) + "\n".join(lines).encode()


def _repeat_key(content: bytes, generator: random.Random) -> bytes:
    at = content.find(b'"', generator.randrange(len(content) + 1))
    end = content.find(b",", at)
    return content if at < 0 or end < 0 else content[:end] + b"," + content[at:end] + content[end:]


def _change_value(content: bytes, generator: random.Random) -> bytes:
    """Put another value in place of one in the JSON, of the whole file or of one of its lines."""
    lines = [content]
    try:
        value = json.loads(content)
    except ValueError:
        lines = content.split(b"\n")
        at = generator.randrange(len(lines))
        try:
            value = json.loads(lines[at])
        except ValueError:
            return _insert_token(content, generator)
    else:
        at = 0
    value = _changed(value, generator)
    lines[at] = json.dumps(value, ensure_ascii=generator.random() < 0.7).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _changed(value: Any, generator: random.Random) -> Any:
    """Replace, drop, double or wrap a value somewhere within."""
    if isinstance(value, dict) and value and generator.random() < 0.85:
        key = generator.choice(sorted(value))
        what = generator.random()
        if what < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if what < 0.2:
            return {**value, generator.choice(("", "x", "__class__", "type", "a" * 5000)): value[key]}
        return {**value, key: _changed(value[key], generator)}
    if isinstance(value, list) and value and generator.random() < 0.85:
        at = generator.randrange(len(value))
        what = generator.random()
        if what < 0.1:
            return value[:at] + value[at + 1 :]
        if what < 0.2:
            return value[: at + 1] + value[at:]
        return [*value[:at], _changed(value[at], generator), *value[at + 1 :]]
    if generator.random() < 0.1:
        return [value]
    return generator.choice(VALUES)


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncation": _truncate,
    "bit flips": _flip_bits,
    "value": _change_value,
    "tokens": _insert_token,
    "value again": _change_value,
    "moved part": _move_part,
    "number": _change_number,
    "long line": _long_line,
    "nesting": _nest,
    "bomb": _bomb,
    "repeated key": _repeat_key,
    "value once more": _change_value,
}
