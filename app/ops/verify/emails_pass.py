"""Verifies a partition of claims and the rows of ``emails`` that follow from it."""

from app.ops.verify.comparison import EMAIL_ROWS, compare_rows
from app.ops.verify.emails import EmailsFold
from app.ops.verify.logs import EMAILS
from app.ops.verify.places import Span
from app.ops.verify.splits import Handed
from app.ops.verify.state import SettledClaims, State
from app.ops.verify.tables import TableFold, digested, held_in_emails


async def verify_emails(state: State, number: int) -> None:
    """Fold the claims of a partition, and compare the rows with those of the changelog."""
    log = state.logs.claims[number]
    span = state.emails_markers[number].span(log, state.findings)
    handed = state.handed_emails.pop(number, Handed())
    fold = EmailsFold(span, state.claims, state.verdicts, state.cutting(log), handed)
    async for records in state.reading.read(log):
        fold.add(records)
    fold.finish()
    state.handed_emails.update(fold.cutting.handed)
    table = await _compare_table(state, number, fold, span)
    table.add_holders(state.held_in_emails)
    state.settled.append(SettledClaims(span, fold.is_quiet, fold.is_whole, fold.unreadable))
    state.totals.counts.update({log.topic: fold.records, EMAILS: len(table.rows)})
    state.totals.not_applied += fold.not_applied


async def _compare_table(state: State, number: int, fold: EmailsFold, span: Span) -> TableFold:
    changelog = state.logs.emails[number]
    digested(fold.rows)
    table = TableFold(number, held_in_emails)
    async for records in state.reading.read(changelog):
        table.add(records)
    if fold.is_whole:
        compare_rows(EMAIL_ROWS, fold.rows, span, table, changelog.topic, state.findings)
    else:
        origin = state.origin(state.logs.claims, number)
        state.findings.unchecked.append(
            f"{origin.topic} {origin.partition}: the log begins at {origin.start}; whether its "
            f"{len(table.rows):,} rows of emails, and which claims won, are right is not known"
        )
    return table
