"""Says something in a room, from outside of the application: a script."""

import json
import sys

from aiopyramid.broadcast.publisher import Publisher


def main(url, room, text):
    with Publisher(url, history={"room:*": 100}) as publisher:
        said = {"user": "the management", "text": text}
        publisher.publish(f"room:{room}", json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
