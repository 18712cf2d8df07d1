"""When a server is no longer worth asking: it fails again and again, or refuses everything
alike."""

import asyncio

from mvp_align.generation.response import CallFailed

GIVE_UP_AFTER = 25
"""Requests in a row that failed through the server, after which it is taken for broken."""
REFUSALS = 5
"""Equal refusals in a row, before any reply, after which the rest is taken to be refused as
well."""


class Patience:
    """What the requests to one server, made at once by several workers, came to so far.

    `heard`: an earlier process had a reply to such a request. Until there is one, a single worker
    asks, so that what is refused to all costs few requests; the others wait for `settled`.
    """

    def __init__(self, *, heard: bool) -> None:
        self.heard = heard
        self.failed = self.refused = 0
        self.last_refusal = ""
        self.given_up = ""
        """Why no further request is worth making; empty where one is."""
        self.settled = asyncio.Event()
        if heard:
            self.settled.set()

    def reply(self) -> None:
        self.heard, self.failed = True, 0
        self.settled.set()

    def failure(self, call: CallFailed) -> None:
        if call.may_pass:
            self.failed, self.refused = self.failed + 1, 0
            self.settled.set()
            if self.failed >= GIVE_UP_AFTER:
                self.given_up = (
                    f"{GIVE_UP_AFTER} requests in a row without a reply, the last one {call.words}"
                )
            return
        self.failed = 0
        self.refused = self.refused + 1 if call.reason == self.last_refusal else 1
        self.last_refusal = call.reason
        if not self.heard and self.refused >= REFUSALS:
            self.given_up = f"no reply yet, and {REFUSALS} requests in a row came to {call.words}"
