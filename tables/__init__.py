"""The tables of the registry, and how a worker declares them."""

from dataclasses import dataclass

import faust

from app.engine.partitions import Partitions
from app.kafka.topics import Topics
from tables.counts import UserCounts
from tables.declaration import declare
from tables.emails import EMAILS, Emails
from tables.letters import LettersById
from tables.outcomes import RecordOutcomes
from tables.recent import RecentRegistrations
from tables.store import StoreOptions
from tables.users import USERS, Users

__all__ = ["EMAILS", "USERS", "Tables", "declare_tables"]


@dataclass(frozen=True, slots=True)
class Tables:
    """What agents and lookups read: two tables, and what stands beside the rows of users."""

    users: Users
    emails: Emails
    outcomes: RecordOutcomes
    letters: LettersById
    recent: RecentRegistrations
    counts: UserCounts


def declare_tables(
    app: faust.App, partitions: Partitions, topics: Topics, rules: str, options: StoreOptions
) -> Tables:
    """Declare both tables, with the topics that each is made from."""
    users = declare(
        app,
        partitions,
        USERS,
        topics.users_changelog,
        # Verdicts first: what waits is finished before more begins.
        sources=(topics.email_decisions, topics.user_registrations),
        rules=rules,
        options=options,
        help="Registered users by id.",
    )
    emails = declare(
        app,
        partitions,
        EMAILS,
        topics.emails_changelog,
        sources=(topics.email_claims,),
        rules=rules,
        options=options,
        help="Who holds an email address, by its key.",
    )
    return Tables(
        Users(users, topics.user_registrations.name),
        Emails(emails),
        RecordOutcomes(users),
        LettersById(users),
        RecentRegistrations(users),
        UserCounts(users),
    )
