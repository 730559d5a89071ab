//! Operations that rows do not have. A rule that uses one does not compile, and the compiler says why: otherwise it suggests an
//! operation with another meaning, or speaks of iterators.
//!
//! No type implements these traits, and none outside can, because they cannot be named there.

macro_rules! absent {
    ($($(#[$diagnostic:meta])* $name:ident;)*) => {
        $($(#[$diagnostic])* pub trait $name {})*
    };
}

absent! {
    #[diagnostic::on_unimplemented(
        message = "a shared row has no `set`: events of different aggregates arrive in no particular order, so the last to arrive would win",
        label = "cannot be set on a shared row",
        note = "`add`, `max` and `insert` do not depend on the order; `max` with a timestamp keeps the latest one",
        note = "`own().set(..)` sets an attribute of the row of the event's own aggregate"
    )]
    SetOnSharedRow;

    #[diagnostic::on_unimplemented(
        message = "a shared row has no `remove`: events of different aggregates arrive in no particular order, so another one may follow",
        label = "cannot be removed from a shared row",
        note = "`retract()` takes back all that the event's aggregate has added to shared rows, `add` with a negative amount a part of it"
    )]
    RemoveFromSharedRow;

    #[diagnostic::on_unimplemented(
        message = "a shared row has no `min`: use `max` with a value that sorts the other way",
        label = "cannot be lowered on a shared row",
        note = "for a number that is `max` with the negative number, which readers negate again"
    )]
    MinOnSharedRow;

    #[diagnostic::on_unimplemented(
        message = "`own()` has no `max` and no `min`: an aggregate's events are applied in their order, so a rule may compare and `set`",
        label = "cannot be compared with the row here",
        note = "read the present value with `event.row()`, for which the projection declares `const READS_ROW: bool = true`"
    )]
    CompareOnOwnRow;

    #[diagnostic::on_unimplemented(
        message = "`own()` has no `insert`: an aggregate's events are applied in their order, so a rule may `set` the whole set",
        label = "cannot be inserted into the own row",
        note = "read the present set with `event.row()`, for which the projection declares `const READS_ROW: bool = true`"
    )]
    InsertIntoOwnRow;
}
