// Made from the registry's own types by `make clients`; changes here would be lost.
import type {
  TRPCBuiltRouter,
  TRPCDefaultErrorShape,
  TRPCMutationProcedure,
  TRPCQueryProcedure,
  TRPCSubscriptionProcedure,
} from '@trpc/server';

/** Which write: the one at a position. */
export interface AtPosition {
  position: string;
}

/** Which user: the one who holds an address. */
export interface ByEmail {
  email: string;
}

/** Which user: the one with an id. */
export interface ById {
  id: string;
}

/** What a change came to; `outcome` is there if the client wanted to wait for it. */
export interface Changed {
  status: 'success';
  id: string;
  position: string;
  outcome?: 'pending' | 'updated' | 'erased' | 'moved';
}

/** Which outcomes: those after an event, or from now on. */
export interface FollowOutcomes {
  lastEventId?: string;
}

/** Whose changes: those of the user with an id. */
export interface FollowUser {
  id: string;
  lastEventId?: string;
}

/** What became of a write, and of which id it was. */
export interface Outcome {
  position: string;
  outcome: 'dead-letter' | 'erased' | 'moved' | 'pending' | 'registered' | 'rejected' | 'replayed' | 'updated';
  reason?: 'id-taken' | 'email-taken' | 'unknown-id' | 'too-many-pending' | 'version-mismatch';
  moved_to?: string;
  id: string;
}

/** What became of a write. */
export interface OutcomeOfWrite {
  position: string;
  outcome: 'dead-letter' | 'erased' | 'moved' | 'pending' | 'registered' | 'rejected' | 'replayed' | 'updated';
  reason?: 'id-taken' | 'email-taken' | 'unknown-id' | 'too-many-pending' | 'version-mismatch';
  moved_to?: string;
}

/** Which users: those whose ids begin with a prefix, the next ones after a cursor. */
export interface Page {
  prefix?: string;
  limit?: number;
  cursor?: string | null;
  direction?: 'forward';
}

/** What came of a row: its position, or why it was not written. */
export interface Receipt {
  id?: string;
  position?: string;
  error?: WhyNot;
}

/** What a registration came to; `outcome` is there if the client wanted to wait for it. */
export interface Registered {
  status: 'success';
  id: string;
  position: string;
  outcome?: 'pending' | 'registered' | 'replayed' | 'moved';
}

/** A registration as clients may send it. */
export interface Registration {
  id: string;
  name: string;
  email: string;
  type?: 'registration';
}

/** A user, as lookups show it. Times are those of the records that were applied. */
export interface User {
  id: string;
  name: string;
  email: string;
  status: 'pending' | 'registered';
  registered_at: string;
  updated_at: string;
  version: number;
  position: string;
  stale_seconds?: number | null;
}

/** A new name, a new address or both; with a version, only of a user who has it. */
export interface UserChange {
  ifVersion?: number;
  ifPosition?: string;
  id: string;
  name?: string;
  email?: string;
}

/** How many users there are, in all and by the day (UTC) of their registration. */
export interface UserCount {
  users: number;
  days: Record<string, number>;
  since?: string;
  stale_seconds?: number;
}

/** Who is erased; with a version, only if the user has it. */
export interface UserErasure {
  ifVersion?: number;
  ifPosition?: string;
  id: string;
}

/** Users in the order of their ids; the last page has no cursor. */
export interface Users {
  items: User[];
  nextCursor?: string;
}

/** Why a row was not written, as the error of a call says it. */
export interface WhyNot {
  reason: string;
  message: string;
  errors?: WrongField[];
  retryAfter?: number;
}

/** What is wrong with an input, and where: a JSON pointer (RFC 6901). */
export interface WrongField {
  pointer: string;
  detail: string;
}

/** What `TRPCClientError.data` says of an error. */
export type ErrorData = TRPCDefaultErrorShape['data'] & {
  /** The last part of the problem's type, such as `email-taken`: docs/reference/problems.md. */
  reason: string;
  /** Each member that is not valid: a JSON pointer, and what is wrong with it. */
  errors?: { pointer: string; detail: string }[];
  /** After so many seconds the same request may be sent again. */
  retryAfter?: number;
};

/** An error of any procedure. */
export type ErrorShape = Omit<TRPCDefaultErrorShape, 'data'> & { data: ErrorData };

/** The registry's procedures: `createTRPCClient<AppRouter>(…)`. */
export type AppRouter = TRPCBuiltRouter<
  { ctx: object; meta: object; errorShape: ErrorShape; transformer: false },
  {
    hello: TRPCQueryProcedure<{ input: void; output: string; meta: object }>;
    userById: TRPCQueryProcedure<{ input: ById; output: User; meta: object }>;
    userByEmail: TRPCQueryProcedure<{ input: ByEmail; output: User; meta: object }>;
    listUsers: TRPCQueryProcedure<{ input: Page | void; output: Users; meta: object }>;
    countUsers: TRPCQueryProcedure<{ input: void; output: UserCount; meta: object }>;
    registration: TRPCQueryProcedure<{ input: AtPosition; output: OutcomeOfWrite; meta: object }>;
    registerUser: TRPCMutationProcedure<{ input: Registration; output: Registered; meta: object }>;
    registerUsers: TRPCMutationProcedure<{ input: Registration[]; output: Receipt[]; meta: object }>;
    updateUser: TRPCMutationProcedure<{ input: UserChange; output: Changed; meta: object }>;
    eraseUser: TRPCMutationProcedure<{ input: UserErasure; output: Changed; meta: object }>;
    user: TRPCSubscriptionProcedure<{ input: FollowUser; output: AsyncIterable<{ id: string; data: User | null }, void, unknown>; meta: object }>;
    outcomes: TRPCSubscriptionProcedure<{ input: FollowOutcomes | void; output: AsyncIterable<{ id: string; data: Outcome }, void, unknown>; meta: object }>;
  }
>;
