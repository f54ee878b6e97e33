//! Messages between agents.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

pub(super) const TOOLS: &[Tool] = &[
    Tool::new(
        "message_send",
        "Send a message",
        Adds,
        &[always("sendMessage")],
        "Send to an agent (`{\"agent\":ID}`), to a topic's listeners (`{\"topic\":NAME}`) or to all (`\"broadcast\"`).",
    ),
    Tool::new(
        "message_receive",
        "Receive messages",
        Adds,
        &[always("receiveMessages")],
        "Take up messages that wait for an agent. Each comes again later until `message_acknowledge`.",
    ),
    Tool::new(
        "message_acknowledge",
        "Acknowledge a message",
        Adds,
        &[always("acknowledgeMessage")],
        "Consumed: it is not delivered to this agent again.",
    )
    .renamed(&[("id", "message")]),
    Tool::new(
        "message_list",
        "List waiting messages",
        Reads,
        &[always("listMessages")],
        "Messages that somebody has yet to acknowledge, in the order of sending.",
    ),
];
