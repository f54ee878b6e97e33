//! Logs besides the embedded one: one that is gone with the process, and one that fails on a plan.

mod ephemeral;
mod faulty;

pub use ephemeral::Ephemeral;
pub use faulty::{Fault, Faulty};
