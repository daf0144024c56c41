"""Access control: keys and their file, sessions of people, proofs of other workers.

It knows no web framework: `app.web.auth.access` asks it about requests.
"""
