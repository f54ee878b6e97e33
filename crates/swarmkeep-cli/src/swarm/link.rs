//! A client that does not give up: every request has an id, is repeated until there is an answer, and what was
//! acknowledged is written down before the next one.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    folder::SESSION,
    ledger::{Ack, Ledger},
};
use crate::{
    client::{Answer, Call, Client, Endpoint},
    failure::Failure,
    verb::{field, number, path, text},
};

/// Nobody waits longer than this for a daemon.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take before the request is repeated.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Link {
    client: Client,
    name: String,
    counter: u64,
    ledger: Ledger,
}

/// What a request came to.
#[derive(Debug)]
pub(crate) enum Came {
    /// The outcomes, one for each command.
    Done(Vec<Value>),
    /// The state does not allow it: the problem's code.
    Refused(String),
}

impl Link {
    /// `name` is the client's in its request ids: no other life may have it.
    pub(crate) fn new(socket: &Path, acknowledged: &Path, name: &str) -> Result<Self, Failure> {
        let ledger = Ledger::create(acknowledged, name).map_err(|error| cannot_note(&error))?;
        Ok(Self { client: Client::new(Endpoint::Socket(socket.to_owned())), name: name.to_owned(), counter: 0, ledger })
    }

    /// Submits commands as one group.
    pub(crate) async fn submit(&mut self, commands: Value) -> Result<Came, Failure> {
        self.write(Call::post(path(SESSION, "/commands"), &json!({ "commands": commands }))).await
    }

    /// Submits one command.
    pub(crate) async fn command(&mut self, command: Value) -> Result<Came, Failure> {
        self.submit(json!([command])).await
    }

    /// Makes the demo's session.
    pub(crate) async fn create_session(&mut self) -> Result<Came, Failure> {
        self.write(Call::post("/v1/sessions", &json!({ "name": SESSION, "metadata": { "source": "demo" } }))).await
    }

    /// Submits commands once, and says whether they were taken: not when the daemon cannot write now.
    pub(crate) async fn is_taken(&mut self, commands: Value) -> Result<bool, Failure> {
        let call = Call::post(path(SESSION, "/commands"), &json!({ "commands": commands }));
        let (request, call) = self.as_request(call);
        match self.client.call(&call.within(ANSWER)).await {
            Ok(answer) if answer.status != 503 => self.take(request, &answer).map(|_| true),
            Ok(_) | Err(_) => Ok(false),
        }
    }

    async fn write(&mut self, call: Call) -> Result<Came, Failure> {
        let (request, call) = self.as_request(call);
        let answer = self.until_answered(&call).await?;
        self.take(request, &answer)
    }

    /// With an id that no request had before.
    fn as_request(&mut self, call: Call) -> (String, Call) {
        self.counter += 1;
        let request = format!("{}:{}", self.name, self.counter);
        // The client is one life of an agent: the record names the agent.
        let actor = self.name.split('.').next().unwrap_or_default().to_owned();
        let call = call.header("idempotency-key", request.clone()).header("swarmkeep-actor", actor);
        (request, call)
    }

    /// An answer; what it acknowledges is written down.
    fn take(&mut self, request: String, answer: &Answer) -> Result<Came, Failure> {
        if answer.status >= 400 {
            let failure = Failure::problem(answer.status, &answer.body);
            return if answer.status == 409 || answer.status == 404 {
                Ok(Came::Refused(failure.code))
            } else {
                Err(failure)
            };
        }
        let reply: Value = answer.json()?;
        let first = number(&reply, "first");
        if first > 0 {
            let head = field(&reply, "head");
            let ack = Ack { request, first, seq: number(head, "seq"), hash: text(head, "hash").to_owned() };
            self.ledger.note(&ack).map_err(|error| cannot_note(&error))?;
        }
        Ok(Came::Done(field(&reply, "outcomes").as_array().cloned().unwrap_or_default()))
    }

    /// Reads.
    pub(crate) async fn get(&mut self, path: String) -> Result<Value, Failure> {
        self.until_answered(&Call::get(path)).await?.ok()?.json()
    }

    async fn until_answered(&mut self, call: &Call) -> Result<Answer, Failure> {
        let call = call.clone().within(ANSWER);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(2);
        loop {
            let why = match self.client.call(&call).await {
                // 503: it cannot now, or nobody knows whether it did. Both are settled by the same request id.
                Ok(answer) if answer.status != 503 => return Ok(answer),
                Ok(answer) => Failure::problem(answer.status, &answer.body).what,
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(Failure::unavailable(
                    format!("{} got no answer for {} s: {why}", self.name, PATIENCE.as_secs()),
                    "look into daemon.log",
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(40));
        }
    }
}

fn cannot_note(error: &std::io::Error) -> Failure {
    Failure::unavailable(
        format!("cannot write down an acknowledgement: {error}"),
        "free some room, or choose another folder with --store",
    )
}
