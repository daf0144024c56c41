"""``python -m app doctor``: what may keep a registry from its work, and what to do about it.

Each check looks at one thing and returns what it found; none of them changes anything.
"""
