"""A mule that waits for a coroutine."""

from __future__ import annotations

import uwsgi

from aiopyramid.helpers import synchronize
from apps.processes import value

while True:
    message = uwsgi.mule_get_msg().decode()
    print("mule:", synchronize(value)(message), flush=True)
