"""``python -m app doctor``: finds what keeps a registry from working, and says what to do.

Each check looks at one thing and returns its findings. No check changes anything.
"""
