"""The tables: one module each for the declaration and typed access, and the store below them."""
