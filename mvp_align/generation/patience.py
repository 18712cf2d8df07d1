"""Decide when to stop sending requests to a server.

That is when requests keep failing, or when it refuses all of them for the same reason.
"""

import asyncio

from mvp_align.generation.response import CallFailed

GIVE_UP_AFTER = 25
"""Consecutive requests without a reply after which the server counts as broken."""
REFUSALS = 5
"""Equal consecutive refusals, before any reply, after which we expect only refusals."""


class Patience:
    """State of the requests to one server, shared by several workers.

    `replied` means that an earlier process got a reply to such a request. Until there is one, a
    single worker sends requests, so that a general refusal costs few of them. The others wait for
    `settled`.
    """

    def __init__(self, *, replied: bool) -> None:
        self.replied = replied
        self.failed = self.refused = 0
        self.last_refusal = ""
        self.given_up = ""
        """Why further requests are pointless; empty if they are not."""
        self.settled = asyncio.Event()
        if replied:
            self.settled.set()

    def record_reply(self) -> None:
        self.replied, self.failed = True, 0
        self.settled.set()

    def record_failure(self, call: CallFailed) -> None:
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
        if not self.replied and self.refused >= REFUSALS:
            self.given_up = f"no reply yet, and {REFUSALS} requests in a row came to {call.words}"
