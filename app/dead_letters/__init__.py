"""Dead letters: records that cannot be applied, with the reason and their position.

`letters` makes and reads them, `reading` finds the open ones in their topic, `listing` selects and
counts them, `later` and `replay` send originals once more. See docs/guides/dead-letters.md.
"""

from app.dead_letters.letters import DeadLetters

__all__ = ["DeadLetters"]
