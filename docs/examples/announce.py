"""Says something in a room, from outside of the application: a script."""

import sys

from aiopyramid.broadcast.publisher import Publisher


def main(url, room, text):
    with Publisher(url, history={"room:*": 100}) as publisher:
        publisher.publish_json(f"room:{room}", {"user": "the management", "text": text})


if __name__ == "__main__":
    main(*sys.argv[1:])
