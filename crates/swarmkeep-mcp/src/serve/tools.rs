//! The tables, one for each kind of thing.

mod agent;
mod effect;
mod memory;
mod message;
mod recovery;
mod session;
mod task;

use super::tool::{Route, Tool, When};

/// All tools, in the order in which clients see them.
pub(super) fn all() -> impl Iterator<Item = &'static Tool> {
    [session::TOOLS, agent::TOOLS, task::TOOLS, message::TOOLS, memory::TOOLS, effect::TOOLS, recovery::TOOLS]
        .into_iter()
        .flatten()
}

/// The tool of this name.
pub(super) fn named(name: &str) -> Option<&'static Tool> {
    all().find(|tool| tool.name == name)
}

const fn always(operation: &'static str) -> Route {
    Route { when: When::Always, operation }
}

const fn given(argument: &'static str, operation: &'static str) -> Route {
    Route { when: When::Given(argument), operation }
}

const fn is(argument: &'static str, value: &'static str, operation: &'static str) -> Route {
    Route { when: When::Is(argument, value), operation }
}
