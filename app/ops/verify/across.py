"""Compares what spans partitions: moved records, and who holds which address."""

from app.ops.verify.findings import Difference
from app.ops.verify.logs import late
from app.ops.verify.moves import Moves, OutcomesTopic, compare_moves
from app.ops.verify.multisets import Multiset
from app.ops.verify.places import place
from app.ops.verify.state import State


def compare_all_moves(state: State) -> None:
    """Compare moved records with their copies, and with the outcomes that report them."""
    outcomes = OutcomesTopic(state.topics.registration_outcomes.name, late(state.logs.outcomes))
    for number, decided in enumerate(state.decided):
        moves = Moves(
            decided.span,
            decided.is_quiet,
            decided.moved,
            decided.perhaps,
            decided.kept_moves,
            Multiset.joined(state.copies[number]),
            Multiset.joined(state.moves_told[number]),
        )
        gone = compare_moves(moves, outcomes, state.findings)
        state.lacking.copies += gone.copies
        state.lacking.outcomes += gone.outcomes
        state.totals.foreign_copies += gone.foreign


def compare_holders(state: State) -> None:
    """Compare which user holds which address (I3 to I5), where nothing is in flight.

    One address has one row of ``emails``, so two users cannot both hold it there.
    """
    quiet = sum(decided.is_quiet for decided in state.decided) if state.claims_are_quiet else 0
    for user in state.held_by_users.without(state.held_in_emails):
        where = place(state.topics.users_changelog.name, user.partition, user.offset)
        state.findings.differs(Difference.NOT_HELD, where)
    if quiet < len(state.decided) or state.totals.open_attempts:
        state.findings.notes.append(
            f"records are in flight: that users hold their addresses was checked in {quiet} of "
            f"{len(state.decided)} partitions, and not that nobody else holds any"
        )
        return
    for holder in state.held_in_emails.without(state.held_by_users):
        where = place(state.topics.emails_changelog.name, holder.partition, holder.offset)
        state.findings.differs(Difference.HELD_BY_NOBODY, where)
