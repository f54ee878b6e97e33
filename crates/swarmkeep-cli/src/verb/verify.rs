//! `swarmkeep verify`.
use clap::Args;
use crate::{context::Context, failure::Failure};
/// See the module.
#[derive(Debug, Args)]
pub(crate) struct Verify {}
impl Verify {
    pub(crate) async fn run(self, _context: &mut Context) -> Result<(), Failure> { Ok(()) }
}
