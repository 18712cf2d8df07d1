"""The one exception that a user's mistake raises: entry points print it plainly, without a traceback."""


class UserError(Exception):
    """What was wrong and what to do about it, in words for the person who ran the command."""


def listed(problems: list[str], heading: str) -> UserError:
    """All problems in one message, so that nobody has to fix them one run at a time."""
    shown = problems[:20]
    lines = [heading, *(f"  - {problem}" for problem in shown)]
    if len(problems) > len(shown):
        lines.append(f"  ... and {len(problems) - len(shown)} more of the same file or command.")
    return UserError("\n".join(lines))
