"""Dead letters: records that cannot be applied, with the reason and their position.

`letters` makes them and reads them again, `reading` finds those that are open in their topic,
`listing` says what there is, `later` and `replay` send originals once more.
docs/guides/dead-letters.md tells how they are used.
"""

from app.dead_letters.letters import DeadLetters

__all__ = ["DeadLetters"]
