//! A swarm on a machine that somebody else turns off: who makes its session and settles its doubts, and who looks at what is
//! there afterwards. Both are processes of their own, and the first ends with the power like the daemon and the agents.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use super::{
    check::{self, Verdict},
    folder::Folder,
    link::Link,
    reconciler, run, worker,
};
use crate::{
    client::{Call, Client, Endpoint},
    context::print_json,
    failure::{Exit, Failure},
    verb::{entries, field, number, text},
};

/// Nobody waits longer than this for a daemon to answer.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);
/// Proving a store of this size takes seconds.
const PROOF: Duration = Duration::from_secs(600);

/// Makes the swarm's session, if there is none, and settles doubts until its input ends.
#[derive(Debug, Args)]
pub(crate) struct Steward {
    /// Counts its processes
    #[arg(long)]
    life: u64,
    /// The store's folder
    #[arg(long = "in", value_name = "DIR")]
    store: PathBuf,
    /// Where it writes down what it got
    #[arg(long, value_name = "DIR")]
    notes: PathBuf,
}

impl Steward {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let folder = Folder { store: self.store, notes: self.notes };
        let stopped = worker::until_input_ends();
        let link = |name: &str| Link::new(&folder.socket(), &folder.acknowledged(), &format!("{name}.{}", self.life));
        run::set_up(&mut link("steward")?, true).await?;
        let (settled, _) = watch::channel((0, 0));
        reconciler::run(folder.clone(), link("reconciler")?, settled, stopped).await
    }
}

/// Compares what was acknowledged with what a daemon has, and has it prove all of its store.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The store's folder
    #[arg(long = "in", value_name = "DIR")]
    store: PathBuf,
    /// What the agents wrote down
    #[arg(long, value_name = "DIR")]
    notes: PathBuf,
}

#[derive(Serialize)]
struct Printed {
    #[serde(flatten)]
    verdict: Verdict,
    /// Records that were read, hashed, folded and compared.
    records_verified: u64,
    /// What did not agree there.
    findings: Vec<String>,
}

impl Check {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let folder = Folder { store: self.store, notes: self.notes };
        let mut client = Client::new(Endpoint::Socket(folder.socket()));
        let up = async {
            while !client.call(&Call::get("/health/live")).await.is_ok_and(|answer| answer.status == 200) {
                sleep(POLL).await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.map_err(|_| {
            Failure::unavailable(format!("no answer for {} s", PATIENCE.as_secs()), "look at what the daemon said")
        })?;
        let mut verdict = Verdict::default();
        // Before the first acknowledgement there may be no session to ask for.
        if check::anything_acknowledged(&folder)? {
            verdict = check::check(&folder, &folder.socket()).await?;
        }
        let proof = check::ask(&mut client, &Call::post("/v1/verify", &json!({})).within(PROOF)).await?;
        let findings = entries(field(&proof, "findings"), "");
        let printed = Printed {
            verdict,
            records_verified: number(&proof, "records"),
            findings: findings.iter().map(|finding| text(finding, "what").to_owned()).collect(),
        };
        print_json(&printed)?;
        if printed.verdict.is_good() && printed.findings.is_empty() {
            return Ok(());
        }
        let mut failure = Failure::new(
            Exit::Corrupt,
            "not_what_was_acknowledged",
            format!("{} lost, {} repeated", printed.verdict.lost, printed.verdict.repeated),
            "please report it with the folder",
        );
        failure.detail = printed.verdict.wrong.iter().chain(&printed.findings).take(10).cloned().collect();
        Err(failure)
    }
}
