"""Says something in the chat: python say.py "hello"."""

import sys

from aiopyramid.broadcast.publisher import Publisher

with Publisher("redis://127.0.0.1:6379/0", history={"chat": 50}) as publisher:
    publisher.publish("chat", sys.argv[1])
