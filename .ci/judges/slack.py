"""Checks Slack messages by the block types of the vendor's own SDK.

    python slack.py FILE...      each one message as JSON, or a list of them

A message passes if every block is of a type that the SDK knows, keeps the SDK's
limits, and comes back from it as it went in, so that no attribute is one that
the SDK does not know.
"""

import json
import sys

from slack_sdk.models.basic_objects import JsonObject
from slack_sdk.models.blocks import Block

# The limits that the SDK's types do not check.
MOST_BLOCKS, MOST_TEXT, MOST_PREFORMATTED = 50, 40_000, 12_000


def objects(value):
    """Yields every object of the SDK within value."""
    if isinstance(value, JsonObject):
        yield value
        for inner in vars(value).values():
            yield from objects(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from objects(inner)


def mistakes(message):
    blocks = message.get("blocks", [])
    if not message.get("text") or len(message["text"]) > MOST_TEXT:
        yield "text is missing or too long"
    if len(blocks) > MOST_BLOCKS:
        yield f"{len(blocks)} blocks"
    if len(json.dumps(blocks, ensure_ascii=False)) > MOST_PREFORMATTED + 4_000:
        yield "blocks are too long altogether"
    for n, block in enumerate(blocks):
        try:
            parsed = Block.parse(block)
            if parsed is None:
                yield f"block {n}: the SDK does not know {block.get('type')}"
                continue
            for inner in objects(parsed):
                inner.validate_json()
            if parsed.to_dict() != block:
                yield f"block {n}: {block}\n  comes back as {parsed.to_dict()}"
        except Exception as err:  # whatever the SDK raises is its verdict
            yield f"block {n}: {err!r}"


def main(files):
    checked, bad = 0, 0
    for name in files:
        with open(name, encoding="utf-8") as file:
            content = json.load(file)
        for message in content if isinstance(content, list) else [content]:
            checked += 1
            for mistake in mistakes(message):
                bad += 1
                print(f"{name}: {mistake}", file=sys.stderr)
    print(f"{checked} Slack messages, {bad} mistakes")
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
