//! `swarmkeep migrate`.
use clap::Subcommand;
use crate::{context::Context, failure::Failure};
#[derive(Debug, Subcommand)]
pub(crate) enum Verb { /// x
 Status }
impl Verb {
    pub(crate) async fn run(self, _context: &mut Context) -> Result<(), Failure> { Ok(()) }
}
