//! What every verb works with: where the store is, how to answer, and the way to the daemon.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    client::{Answer, Call, CallError, Client, Endpoint},
    daemon::{self, Start},
    failure::{Exit, Failure},
    paint::Paint,
    place::Place,
    say::say,
    settings::Settings,
    table::{Table, terminal_width},
};

/// A call that nobody answers is tried again for this long: a daemon that was killed is back before.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) place: Place,
    pub(crate) config: Option<PathBuf>,
    pub(crate) url: Option<Endpoint>,
    pub(crate) json: bool,
    pub(crate) dry_run: bool,
    pub(crate) no_start: bool,
    /// The id of the request that this call makes; one is drawn where none is given.
    pub(crate) request: Option<String>,
    pub(crate) actor: Option<String>,
    /// The verb may make a store where there is none.
    pub(crate) may_make_store: bool,
    pub(crate) paint: Paint,
    client: Option<Client>,
    /// A session that was read is damaged, and this is how much of it can be had.
    left: Option<(String, String)>,
}

impl Context {
    pub(crate) fn new(place: Place, paint: Paint) -> Self {
        Self {
            place,
            config: None,
            url: None,
            json: false,
            dry_run: false,
            no_start: false,
            request: None,
            actor: None,
            may_make_store: false,
            paint,
            client: None,
            left: None,
        }
    }

    /// What was read was not all of it: done, and yet not well.
    pub(crate) fn was_left(&mut self) -> Option<Failure> {
        let (session, left) = self.left.take()?;
        Some(Failure::corrupt(
            format!("{session} is damaged, and waits for a decision: what is shown is what can be had of it, {left}"),
            format!("`swarmkeep quarantine show {session}` says what is lost, and what to do"),
        ))
    }

    /// The daemon's settings, as they would be if it were started now, with these flags.
    pub(crate) fn settings(&self, flags: &[(String, String)]) -> Result<Settings, Failure> {
        self.place.must_not_be_a_file()?;
        let file = self.config.clone().unwrap_or_else(|| self.place.settings_file());
        Settings::load(
            (&file, self.config.is_some()),
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
            flags,
        )
    }

    async fn reach(&self) -> Result<Client, Failure> {
        if let Some(endpoint) = &self.url {
            let mut client = Client::new(endpoint.clone());
            return match client.connect().await {
                Ok(()) => Ok(client),
                Err(error) => Err(Failure::unavailable(
                    format!("nobody answers at {endpoint}: {error}"),
                    "is the daemon running there? `swarmkeep serve` starts one",
                )),
            };
        }
        let error = match daemon::find(&self.place).await {
            Ok(client) => return Ok(client),
            // Somebody listens, and does not answer: another daemon would find the store held. One that was taken over from holds
            // nothing any more.
            Err(error)
                if error.kind() == std::io::ErrorKind::TimedOut
                    && !matches!(swarmkeep::lock::holder(&self.place.dir), Ok(None)) =>
            {
                return Err(daemon::nobody(&self.place, &error));
            }
            Err(error) => error,
        };
        // A wrong settings file is this start's trouble: a daemon that runs has its settings.
        let log_bytes = self.settings(&[])?.number("max_log_size");
        let start =
            Start { allowed: !self.no_start, may_make: self.may_make_store, config: self.config.as_deref(), log_bytes };
        daemon::bring_up(&self.place, start, &error).await
    }

    /// A connection of its own, for an answer that is read as it comes.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        self.reach().await
    }

    /// A connection of its own to a daemon that runs; none is started.
    pub(crate) async fn connect_if_running(&self) -> std::io::Result<Client> {
        match &self.url {
            Some(endpoint) => {
                let mut client = Client::new(endpoint.clone());
                client.connect().await?;
                Ok(client)
            }
            None => daemon::find(&self.place).await,
        }
    }

    /// Reads.
    pub(crate) async fn get(&mut self, path: impl Into<String>) -> Result<Answer, Failure> {
        self.call(Call::get(path)).await
    }

    /// Reads, as JSON.
    pub(crate) async fn get_json(&mut self, path: impl Into<String>) -> Result<Value, Failure> {
        self.get(path).await?.json()
    }

    /// Makes a call that changes nothing, whatever its method.
    pub(crate) async fn read(&mut self, call: Call) -> Result<Answer, Failure> {
        self.call(call).await
    }

    /// Changes the store: with a request id, so that it is carried out once however often it is sent. `None` with
    /// `--dry-run`, which says what would be sent and sends nothing.
    pub(crate) async fn write(&mut self, call: Call) -> Result<Option<Answer>, Failure> {
        let key = match self.request.take() {
            Some(request) => request,
            None => drawn_key()?,
        };
        let mut call = call.header("idempotency-key", key);
        call = call.header("swarmkeep-actor", self.actor.clone().unwrap_or_else(user));
        if self.dry_run {
            self.say_dry_run(&call)?;
            return Ok(None);
        }
        self.call(call).await.map(Some)
    }

    fn say_dry_run(&self, call: &Call) -> Result<(), Failure> {
        if self.json {
            let body: Value = serde_json::from_slice(&call.body).unwrap_or(Value::Null);
            return print_json(&serde_json::json!({
                "dry_run": true, "method": call.method.as_str(), "path": call.path, "body": body,
            }));
        }
        say!("would send, and did not: {} {}", call.method, call.path);
        if !call.body.is_empty() {
            say!("  {}", crate::table::printable(&String::from_utf8_lossy(&call.body)));
        }
        Ok(())
    }

    /// Makes a call, again and again while nobody answers or the store cannot do it for the moment.
    async fn call(&mut self, call: Call) -> Result<Answer, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(5);
        let mut may_be_done = false;
        loop {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => self.reach().await.map_err(|failure| self.in_doubt(may_be_done, &call, failure))?,
            };
            let failure = match client.call(&call).await {
                Ok(answer) => {
                    self.client = Some(client);
                    if answer.status != 503 {
                        if let (Some(left), Some(session)) = (&answer.left, session_in(&call)) {
                            self.left = Some((session, left.clone()));
                        }
                        return match answer.ok() {
                            Ok(answer) => Ok(answer),
                            Err(failure) => Err(self.fitting(failure, &call).await),
                        };
                    }
                    let failure = Failure::problem(answer.status, &answer.body);
                    may_be_done |= failure.code == "unknown";
                    failure
                }
                Err(CallError::NotSent(error)) => Failure::unavailable(
                    format!("no connection to {}: {error}", client.endpoint()),
                    "is the daemon running? `swarmkeep doctor` looks",
                ),
                Err(CallError::Tls) => {
                    return Err(Failure::usage(
                        format!("{} speaks TLS, and this program does not", client.endpoint()),
                        "on the daemon's machine give the store's folder instead: --store DIR; from elsewhere go through a \
                         tunnel that ends the TLS (docs/operations.md, Security)",
                    ));
                }
                Err(error @ CallError::Lost(_)) => {
                    may_be_done |= call.method != hyper::Method::GET;
                    Failure::unavailable(
                        error.to_string(),
                        "try again in a moment; `swarmkeep doctor` looks for the cause",
                    )
                }
            };
            if Instant::now() + pause >= deadline {
                return Err(self.in_doubt(may_be_done, &call, failure));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// The same failure, with advice for the session that the call was about.
    async fn fitting(&mut self, mut failure: Failure, call: &Call) -> Failure {
        let Some(session) = session_of(call) else { return failure };
        failure.next = failure.next.replace(" NAME", &format!(" {session}"));
        if let Ok(name) = session.parse::<swarmkeep::SessionName>() {
            // The engine goes by ids.
            failure.what = failure.what.replace(&format!("session {}", name.id()), &format!("session {session}"));
        }
        if failure.code == "not_found"
            && let Some((_, left)) = &self.left
        {
            failure.exit = Exit::Corrupt;
            failure.what +=
                &format!("; {session} is damaged, and this was looked for in what can be had of it, {left}");
            failure.next = format!("`swarmkeep quarantine show {session}` says what is lost, and what to do");
            return failure;
        }
        if failure.code == "not_found"
            && failure.what.starts_with("no record at seq")
            && let Some(client) = &mut self.client
            && let Ok(answer) = client.call(&Call::get(crate::verb::path(&session, ""))).await
            && let Ok(Value::Object(shown)) = answer.json()
            && let Some(head) = shown.get("head").and_then(|head| head.get("seq")).and_then(Value::as_u64)
        {
            failure.next =
                format!("{session} ends at seq {head}; `swarmkeep session history {session}` shows its seqs");
        }
        failure
    }

    fn in_doubt(&self, may_be_done: bool, call: &Call, failure: Failure) -> Failure {
        let key = call.headers.iter().find(|(name, _)| *name == "idempotency-key").map(|(_, key)| key.as_str());
        match key {
            Some(key) if may_be_done => Failure::unknown(
                format!("it may or may not have been done: {}", failure.what),
                format!("repeat the same call with --request {key}: it is carried out once at most"),
            ),
            _ => failure,
        }
    }

    /// The answer: as JSON, or as what `people` makes of it.
    pub(crate) fn answer<T: Serialize>(&self, value: &T, people: impl FnOnce(&Self)) -> Result<(), Failure> {
        if self.json {
            return print_json(value);
        }
        people(self);
        Ok(())
    }

    /// Prints a table, or a line that says that there is nothing.
    pub(crate) fn print_table(&self, table: &Table, nothing: &str) {
        if table.is_empty() {
            say!("{}", self.paint.dim(nothing));
        } else {
            crate::say::out(format_args!("{}", table.render(terminal_width(), self.paint)));
        }
    }
}

/// The session in a call's path, as it is typed.
fn session_in(call: &Call) -> Option<String> {
    let (path, _) = call.path.split_once('?').unwrap_or((&call.path, ""));
    let mut parts = path.split('/').skip_while(|part| *part != "sessions").skip(1);
    typed(parts.next()?, parts.next()?)
}

/// Names need no escapes; what has some, or a space, is no name, and the advice stays general.
fn typed(namespace: &str, name: &str) -> Option<String> {
    let session = if namespace == "default" { name.to_owned() } else { format!("{namespace}/{name}") };
    session.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte)).then_some(session)
}

/// The session that a call was about, as it is typed: the one that it would have made, else the one in its path.
fn session_of(call: &Call) -> Option<String> {
    let (path, _) = call.path.split_once('?').unwrap_or((&call.path, ""));
    let named = |field: &str| {
        let body: Value = serde_json::from_slice(&call.body).ok()?;
        Some(body.get(field)?.as_str()?.to_owned())
    };
    if path == "/v1/verify" {
        return named("session");
    }
    let mut parts = path.split('/').skip_while(|part| *part != "sessions").skip(1);
    let of = (parts.next(), parts.next());
    match (of, parts.next()) {
        ((None, None), _) | (_, Some("fork")) => {
            let name = named("name")?;
            let (namespace, name) = name.split_once('/').unwrap_or(("default", &name));
            typed(namespace, name)
        }
        ((Some(namespace), Some(name)), _) => typed(namespace, name),
        _ => None,
    }
}

/// One JSON value on one line of standard output.
pub(crate) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(|error| {
        Failure::unavailable(format!("cannot be written as JSON: {error}"), "this is a defect: please report it")
    })?;
    say!("{text}");
    crate::say::has_answered();
    Ok(())
}

/// Who types: `user:NAME`; `cli` where the system does not say.
pub(crate) fn user() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    match name {
        Some(name) if name.len() <= 128 && name.bytes().all(|byte| byte.is_ascii_graphic()) => format!("user:{name}"),
        _ => "cli".to_owned(),
    }
}

pub(crate) fn drawn_key() -> Result<String, Failure> {
    Ok(format!("cli-{:032x}", random()?))
}

/// 128 random bits.
pub(crate) fn random() -> Result<u128, Failure> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::unavailable(
            format!("the operating system gives no random bytes: {error}"),
            "name the request yourself with --request ID",
        )
    })?;
    Ok(u128::from_le_bytes(bytes))
}
