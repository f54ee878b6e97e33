//! Things done outside the session.

use super::{
    super::tool::{Nature::*, Tool},
    always,
};

const KEY: &[(&str, &str)] = &[("key", "effect")];

pub(super) const TOOLS: &[Tool] = &[
    Tool::new(
        "effect_begin",
        "Before something is done outside",
        Adds,
        &[always("beginEffect")],
        "Ask before anything that must not happen twice is done outside (a payment, a mail, a call). `outcomes[0]` says: `run`: do it, \
         then `effect_finish`; `recorded`: it was done before, this came of it; the refusal `outcome_unknown`: nobody knows, do not do it.",
    )
    .renamed(KEY),
    Tool::new(
        "effect_finish",
        "After something was done outside",
        Adds,
        &[always("finishEffect")],
        "Say what came of it, with the `attempt` that `effect_begin` answered.",
    )
    .renamed(KEY),
    Tool::new(
        "effect_resolve",
        "Settle a doubt",
        Adds,
        &[always("resolveEffect")],
        "For whoever looked outside: with `outcome` it was done, without it was not. `by` says who looked: `reconciler:NAME`, or `user:NAME` for a person, \
         which class `ask` wants. Do not guess.",
    )
    .renamed(KEY),
    Tool::new("effect_list", "List effects", Reads, &[always("listEffects")], "Effects, in the order of their keys; `status=outcome_unknown` for those that wait for somebody's word."),
];
